"""Access keys in the admin: seen once, listed with their state, rotated and revoked, and refused with words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse

from lakehouse import clock
from lakehouse.models import AccessKey
from lakehouse.parent import access, key_changes

pytestmark = pytest.mark.django_db

KEY = re.compile(r"evodb_[\w-]{43}")
LIST = "admin:lakehouse_accesskey_changelist"


@pytest.fixture
def admin_client(client: Client) -> Client:
    operator = get_user_model().objects.create(username="operator", is_staff=True, is_superuser=True)
    client.force_login(operator)
    return client


def key(name: str = "laptop", **fields: Any) -> tuple[AccessKey, str]:
    return access.new_key(name, **{"scopes": ["ingest"], "now_ms": clock.now_ms()} | fields)


def form(**fields: Any) -> dict[str, Any]:
    """As a browser sends it: every field, line breaks as CR LF."""
    sent = {"name": "laptop", "scopes": ["ingest"], "source_pattern": "*", "parents": "*", "namespaces": "*"}
    return {**sent, "priority": "normal", "limits": "{}", "expires_0": "", "expires_1": "", **fields}


def add(client: Client, **fields: Any) -> str:
    return client.post(reverse("admin:lakehouse_accesskey_add"), form(**fields), follow=True).content.decode()


def act(client: Client, action: str, *keys: AccessKey) -> str:
    sent = {"action": action, "_selected_action": [one.pk for one in keys]}
    return client.post(reverse(LIST), sent, follow=True).content.decode()


def page(client: Client, query: str = "") -> str:
    return client.get(reverse(LIST) + query).content.decode()


def test_a_new_key_is_bound_to_all_that_was_said(admin_client: Client) -> None:
    sent = {
        "scopes": ["query", "ingest"],
        "source_pattern": "shop-*\r\nbank-1\r\n",
        "parents": "eu-*",
        "namespaces": " lake ",
        "priority": "high",
        "limits": '{"burst_capacity": 9, "messages_per_second": null}',
    }
    [text] = KEY.findall(add(admin_client, **sent))
    found = access.find(text, now_ms=clock.now_ms())
    assert found is not None
    assert found.scopes == ["query", "ingest"]
    assert (found.source_pattern, found.parents, found.namespaces) == ("shop-*\nbank-1", "eu-*", "lake")
    assert (found.priority, found.limits) == ("high", {"burst_capacity": 9})


def test_a_new_key_is_in_no_session_and_no_history(admin_client: Client) -> None:
    [text] = KEY.findall(add(admin_client))
    history = admin_client.get(reverse("admin:lakehouse_accesskey_history", args=[AccessKey.objects.get().pk]))
    assert text not in history.content.decode()
    assert text not in str([session.get_decoded() for session in Session.objects.all()])
    assert text not in page(admin_client)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"source_pattern": ""}, "source patterns: found 0 patterns, wanted 1 to 100"),
        ({"parents": " \r\n "}, "parent patterns: found 0 patterns"),
        ({"namespaces": "x" * 501}, "can fit no name"),
        ({"limits": '{"speed": 1}'}, "unknown limit speed"),
        ({"limits": '{"burst_capacity": 0}'}, "limit burst_capacity is 0, wanted a whole number from 1"),
        ({"limits": "[]"}, "limits are [], wanted an object"),
        ({"limits": "[1]"}, "limits are [1], wanted an object"),
        ({"limits": "{"}, "Enter a valid JSON."),
        ({"priority": ""}, "priority is"),
        ({"priority": "urgent"}, "urgent is not one of the available choices"),
        ({"name": "a\tb"}, "the name is"),
        ({"name": "a\x00b"}, "Null characters are not allowed"),
        ({"scopes": []}, "This field is required"),
    ],
)
def test_what_cannot_work_makes_no_key_and_is_said(admin_client: Client, fields: dict[str, Any], said: str) -> None:
    shown = add(admin_client, **fields).replace("&#x27;", "'").replace("&quot;", '"')
    assert said in shown
    assert not AccessKey.objects.exists()


def test_what_cannot_work_changes_no_key(admin_client: Client) -> None:
    row, _ = key(limits={"burst_capacity": 9})
    before = AccessKey.objects.values().get()
    address = reverse("admin:lakehouse_accesskey_change", args=[row.pk])
    for fields in ({"parents": ""}, {"limits": '{"speed": 1}'}, {"priority": ""}):
        assert admin_client.post(address, form(**fields)).status_code == 200
    assert AccessKey.objects.values().get() == before


def test_limits_that_were_emptied_are_those_of_the_house(admin_client: Client) -> None:
    row, _ = key(limits={"burst_capacity": 9})
    address = reverse("admin:lakehouse_accesskey_change", args=[row.pk])
    sent = form(limits="") | {"initial-limits": '{"burst_capacity": 9}'}
    assert admin_client.post(address, sent).status_code == 302
    assert AccessKey.objects.get().limits == {}


def test_a_key_is_narrowed_in_every_way_and_opens_what_is_left(admin_client: Client) -> None:
    row, text = key()
    address = reverse("admin:lakehouse_accesskey_change", args=[row.pk])
    sent = form(source_pattern="a\r\nb", parents="eu", namespaces="lake", priority="high")
    assert admin_client.post(address, sent).status_code == 302
    found = access.find(text, now_ms=clock.now_ms())
    assert found is not None
    assert access.allows(found, scope="ingest", source="b", parent="eu", namespace="lake")
    assert not access.allows(found, scope="ingest", source="c", parent="eu", namespace="lake")
    assert not access.allows(found, scope="ingest", source="b", parent="us", namespace="lake")
    assert found.priority == "high"


def test_the_list_says_which_keys_are_good(admin_client: Client) -> None:
    now_ms = clock.now_ms()
    live, expired, revoked = (key(name)[0] for name in ("one-live", "one-expired", "one-revoked"))
    AccessKey.objects.filter(pk=expired.pk).update(expires_ms=now_ms - 1)
    key_changes.revoke(revoked, now_ms=now_ms)
    for state, row in (("live", live), ("expired", expired), ("revoked", revoked)):
        shown = page(admin_client, f"?state={state}")
        assert [name for name in ("one-live", "one-expired", "one-revoked") if name in shown] == [row.name]
        assert f'<td class="field-state">{state.capitalize()}</td>' in shown
    assert row.prefix in page(admin_client)
    assert row.digest not in page(admin_client)


def test_a_key_is_rotated_and_its_successor_shown_once(admin_client: Client) -> None:
    row, old = key(source_pattern="shop-*")
    [new] = KEY.findall(act(admin_client, "rotate", row))
    found = access.find(new, now_ms=clock.now_ms())
    assert found is not None
    assert (found.rotated_from, found.source_pattern) == (row, "shop-*")
    assert access.find(old, now_ms=clock.now_ms()) is not None
    assert access.find(old, now_ms=clock.now_ms() + key_changes.OVERLAP_MS) is None
    assert new not in page(admin_client)


def test_keys_are_rotated_one_at_a_time(admin_client: Client) -> None:
    both = key()[0], key()[0]
    assert "Rotate one key at a time" in act(admin_client, "rotate", *both)
    assert AccessKey.objects.count() == 2


def test_a_key_that_cannot_be_rotated_says_why(admin_client: Client) -> None:
    row, _ = key()
    key_changes.revoke(row, now_ms=clock.now_ms())
    assert "Nothing was changed: laptop" in act(admin_client, "rotate", row)
    assert AccessKey.objects.count() == 1


def test_revoking_says_how_many_and_keeps_the_first_moment(admin_client: Client) -> None:
    rows = [key()[0] for _ in range(3)]
    key_changes.revoke(rows[0], now_ms=5)
    assert "2 keys revoked." in act(admin_client, "revoke", *rows)
    assert AccessKey.objects.get(pk=rows[0].pk).revoked_ms == 5
    assert not access.alive(now_ms=clock.now_ms()).exists()


@pytest.mark.parametrize(
    ("permissions", "made", "revoked"),
    [(["view"], 0, 0), (["view", "add"], 0, 0), (["view", "change"], 0, 1), (["view", "add", "change"], 1, 1)],
)
def test_who_may_only_look_at_keys_can_neither_get_one_nor_end_one(
    client: Client, permissions: list[str], made: int, revoked: int
) -> None:
    """Rotating showed a new key of the same scopes to whoever could open the list."""
    found = key("all", scopes=access.SCOPES)[0]
    looker = get_user_model().objects.create(username="looker", is_staff=True)
    looker.user_permissions.set(Permission.objects.filter(codename__in=[f"{one}_accesskey" for one in permissions]))
    client.force_login(looker)
    for action in ("rotate", "revoke"):
        act(client, action, found)
    assert AccessKey.objects.count() == 1 + made
    assert AccessKey.objects.filter(pk=found.pk, revoked_ms__isnull=False).count() == revoked
