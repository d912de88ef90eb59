"""Subscriptions in the admin: made with the checks of the API, paused, tested, and dead letters tried again."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.test import Client

from lakehouse.clock import now_ms
from lakehouse.events.event import shown
from lakehouse.models import Parent
from lakehouse.subscriptions.models import Attempt, Delivery, DeliveryTotal, Subscription
from tests.lakehouse.test_admin import text_of, url

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin_client(client: Client) -> Client:
    client.force_login(get_user_model().objects.create(username="operator", is_staff=True, is_superuser=True))
    return client


def form(parent: Parent, **fields: Any) -> dict[str, Any]:
    known = {"parent": parent.pk, "name": "hook", "pattern": "collection.*", "table": "", "target_kind": "webhook"}
    known |= {"target": "https://example.com/hook", "attempts_max": 5, "batch_events": 1, "batch_ms": 1000}
    return known | fields


def made(**fields: Any) -> Subscription:
    parent = Parent.objects.create(name="shop", commit_number=7)
    return Subscription.objects.create(parent=parent, name="hook", pattern="**", target_kind="webhook", **fields)


def act(client: Client, model: type[Any], action: str, *rows: Any) -> None:
    selected = {"action": action, "_selected_action": [row.pk for row in rows]}
    assert client.post(url(model, "changelist"), selected).status_code == 302


def test_a_new_one_starts_now_and_has_a_secret_to_show(admin_client: Client) -> None:
    parent = Parent.objects.create(name="shop", commit_number=7)
    assert admin_client.post(url(Subscription, "add"), form(parent)).status_code == 302
    one = Subscription.objects.get()
    assert (one.commit_number, one.state, one.created_ms > 0) == (7, "active", True)
    assert one.secret in text_of(admin_client, url(Subscription, "change", one.pk))


@pytest.mark.parametrize(("codenames", "is_shown"), [(["view"], False), (["view", "change"], True)])
def test_the_secret_that_signs_is_shown_to_nobody_who_may_only_look(
    client: Client, codenames: list[str], is_shown: bool
) -> None:
    parent = Parent.objects.create(name="shop")
    one = Subscription.objects.create(parent=parent, name="hook", pattern="*", target_kind="webhook")
    looker = get_user_model().objects.create(username="looker", is_staff=True)
    looker.user_permissions.set(Permission.objects.filter(codename__in=[f"{name}_subscription" for name in codenames]))
    client.force_login(looker)
    assert one.secret
    assert (one.secret in text_of(client, url(Subscription, "change", one.pk))) is is_shown


@pytest.mark.parametrize("wrong", [{"pattern": "a..b"}, {"target": "http://127.0.0.1/"}, {"batch_events": 0}])
def test_what_the_api_refuses_is_refused_here(admin_client: Client, wrong: dict[str, Any]) -> None:
    parent = Parent.objects.create(name="shop")
    assert admin_client.post(url(Subscription, "add"), form(parent, **wrong)).status_code == 200
    assert not Subscription.objects.exists()


def test_more_patterns_of_many_stars_than_a_parent_may_have_are_refused_here(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse.subscriptions.patterns.WIDE_CHARS_MAX", 5)
    parent = Parent.objects.create(name="shop")
    answer = admin_client.post(url(Subscription, "add"), form(parent, pattern="*a*b*c*"))
    assert "have 0 of 5 characters" in answer.content.decode()
    assert admin_client.post(url(Subscription, "add"), form(parent, pattern="*a*")).status_code == 302
    assert Subscription.objects.get().pattern == "*a*"


def test_saving_leaves_the_place_alone_that_moved_meanwhile(admin_client: Client) -> None:
    one = made(target="https://example.com/", commit_number=9)
    admin_client.post(url(Subscription, "change", one.pk), form(one.parent, name="other", commit_number=0))
    one.refresh_from_db()
    assert (one.name, one.commit_number) == ("other", 9)


def test_pause_resume_and_test_are_one_click_each(admin_client: Client) -> None:
    one = made(target="https://example.com/")
    for action, state in (("pause", "paused"), ("resume", "active")):
        act(admin_client, Subscription, action, one)
        one.refresh_from_db()
        assert one.state == state
    act(admin_client, Subscription, "test_fire", one)
    assert "Save and send a test event" in text_of(admin_client, url(Subscription, "change", one.pk))
    admin_client.post(url(Subscription, "change", one.pk), form(one.parent, _test_fire="1"))
    assert [b"subscription.test" in bytes(row.events) for row in Delivery.objects.all()] == [True, True]


def test_one_for_which_there_is_no_room_any_more_stays_as_it_was_and_that_is_said(
    admin_client: Client, settings: Any
) -> None:
    settings.EVODB = dataclasses.replace(settings.EVODB, subscriptions_max=0)
    one = made(target="https://example.com/", state="disabled")
    act(admin_client, Subscription, "resume", one)
    assert "None was resumed: parent" in text_of(admin_client, url(Subscription, "changelist"))
    for action, *start in (("resume",), ("replay", "--since", shown(now_ms()))):
        with pytest.raises(CommandError, match="has 0 of 0 subscriptions"):
            call_command("subscriptions", action, str(one.pk), *start)
    one.refresh_from_db()
    assert one.state == "disabled"


def test_dead_letters_are_found_and_tried_again(admin_client: Client) -> None:
    one = made(target="https://example.com/")
    dead = Delivery.objects.create(subscription=one, commit_number=1, state="dead", dead_ms=1, attempts_made=5)
    done = Delivery.objects.create(subscription=one, commit_number=1, state="delivered")
    listed = text_of(admin_client, url(Delivery, "changelist") + "?letter=yes")
    assert f"/{dead.pk}/change/" in listed
    assert f"/{done.pk}/change/" not in listed
    act(admin_client, Delivery, "retry", dead, done)
    assert list(Delivery.objects.order_by("pk").values_list("state", "attempts_made")) == [
        ("pending", 0),
        ("delivered", 0),
    ]


def test_the_events_of_a_message_are_read_as_text_and_not_as_bytes(admin_client: Client) -> None:
    events = b'[{"type":"collection.insert","doc":{"name":"Zo\xc3\xab"}}]'
    message = Delivery.objects.create(subscription=made(target="https://example.com/"), commit_number=1, events=events)
    page = text_of(admin_client, url(Delivery, "change", message.pk))
    assert "collection.insert" in page
    assert "Zoë" in page
    assert "5b 7b 22" not in page + text_of(admin_client, url(Delivery, "changelist"))


def test_what_never_was_and_how_long_it_took_are_no_moments_of_1970(admin_client: Client) -> None:
    message = Delivery.objects.create(subscription=made(target="https://example.com/"), commit_number=1)
    attempt = Attempt.objects.create(delivery=message, started_ms=1_700_000_000_000, duration_ms=4711)
    total = DeliveryTotal.objects.create(parent=Parent.objects.get(), took_ms=4712)
    for row, said in ((message, ""), (attempt, "4711"), (total, "4712")):
        page = text_of(admin_client, url(type(row), "change", row.pk))
        assert ("1970-" in page, said in page) == (False, True)
