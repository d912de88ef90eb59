"""Operators at the dead letters: `manage.py replay`, the actions of the admin, and the task that forgets by age."""

from __future__ import annotations

import dataclasses
import io
import json
from base64 import b64decode
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from lakehouse import tasks
from lakehouse.clock import now_ms
from lakehouse.flush.history import DAY_MS
from lakehouse.models import Batch, Child, DeadLetter, Parent
from rpc import columns
from tests.builders import NOW_MS, entry, parent

pytestmark = pytest.mark.django_db

LETTERS, PARENTS = reverse("admin:lakehouse_deadletter_changelist"), reverse("admin:lakehouse_parent_changelist")


def letter(
    of: Parent, sequence: int, *, child: str = "shop-1", table: str = "orders", created_ms: int = NOW_MS
) -> DeadLetter:
    """As a flush leaves it."""
    source, _ = Child.objects.get_or_create(parent=of, name=child)
    payload = columns.encode([entry(sequence, table=table)])
    numbers = {"epoch": 1, "sequence": sequence, "entry_sequence_first": sequence, "entry_sequence_last": sequence}
    rest = {"digest": b"d", "entries": 1, "size_bytes": len(payload), "encoding": "columns", "received_ms": NOW_MS}
    batch = Batch.objects.create(parent=of, child=source, state="persisted", **numbers, **rest)
    return DeadLetter.objects.create(
        parent=of,
        child=source,
        batch=batch,
        entry_index=0,
        table=table,
        encoding="columns",
        payload=payload,
        reason="not JSON",
        created_ms=created_ms,
    )


@pytest.fixture
def street() -> list[DeadLetter]:
    """Letters of two parents, two children, two tables and two days."""
    shop, bar = parent("shop"), parent("bar")
    return [
        letter(shop, 1),
        letter(shop, 2, table="items"),
        letter(shop, 3, child="shop-2", created_ms=NOW_MS + DAY_MS),
        letter(bar, 4),
    ]


@pytest.fixture
def admin_client(client: Client) -> Client:
    client.force_login(get_user_model().objects.create(username="operator", is_staff=True, is_superuser=True))
    return client


def replayed() -> list[int]:
    """The sequences of those that are in the journal again."""
    return list(DeadLetter.objects.filter(state="replayed").order_by("pk").values_list("batch__sequence", flat=True))


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ([], [1, 2, 3, 4]),
        (["--parent", "shop"], [1, 2, 3]),
        (["--parent", "shop", "--child", "shop-2"], [3]),
        (["--child", "shop-1"], [1, 2, 4]),
        (["--table", "items"], [2]),
        (["--table", "nothing"], []),
        (["--since", "2023-11-15"], [3]),
        (["--since", "2023-11-14T22:13:20"], [1, 2, 3, 4]),
        (["--since", "2023-11-15T00:13:21+02:00"], [3]),
        (["--limit", "2"], [1, 2]),
        (["--parent", "shop", "--limit", "9"], [1, 2, 3]),
    ],
)
def test_the_letters_that_are_named_are_replayed_and_no_others(
    street: list[DeadLetter], options: list[str], chosen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("replay", "--dry-run", *options)
    assert capsys.readouterr().out.startswith(f"{len(chosen)} dead letters would be replayed\n")
    assert replayed() == []
    call_command("replay", *options)
    assert f"{len(chosen)} dead letters are in the journal again" in capsys.readouterr().out
    assert replayed() == chosen


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--parent", "gone"], "there is no parent 'gone'; known are: bar, shop"),
        (["--child", "gone"], "there is no child 'gone'; known are: shop-1, shop-2"),
        (["--parent", "bar", "--child", "shop-2"], "there is no child 'shop-2'; known are: shop-1"),
        (["--since", "yesterday"], "--since is 'yesterday', wanted a date such as 2026-11-21"),
        (["--since", "9999-12-31T23:59:59-23:59", "--limit", "x"], "--limit is 'x', wanted a whole number from 1"),
        (["--limit", "0"], "--limit is '0', wanted a whole number from 1 to 1000000000"),
        (["--limit", "٣"], "wanted a whole number from 1"),
        (["--limit", "1" * 30], "wanted a whole number from 1"),
        (["--purge", "--limit", "1"], "--limit does not go with --purge"),
        (["--purge"], "nothing was deleted; a purged letter is gone for ever. Add --yes"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_done(
    street: list[DeadLetter], options: list[str], said: str
) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("replay", *options)
    assert said in str(caught.value)
    assert (replayed(), DeadLetter.objects.count()) == ([], 4)


def test_a_dry_run_says_the_reasons(street: list[DeadLetter], capsys: pytest.CaptureFixture[str]) -> None:
    call_command("replay", "--dry-run", "--parent", "shop")
    assert capsys.readouterr().out.splitlines() == [
        "3 dead letters would be replayed",
        "    2 of shop, table orders: not JSON",
        "    1 of shop, table items: not JSON",
    ]


def test_a_full_buffer_is_told_with_what_to_type(street: list[DeadLetter], capsys: pytest.CaptureFixture[str]) -> None:
    Parent.objects.filter(name="shop").update(config={"max_buffer_entries": 2, "flush_threshold_entries": 1})
    call_command("replay")
    assert replayed() == [1, 2, 4]
    said = capsys.readouterr().out
    assert (
        "shop: its buffer is full and 1 are left; type `manage.py flush_buffers --parent shop`, then this again" in said
    )


def test_purging_takes_a_yes_and_leaves_what_is_in_the_journal(
    street: list[DeadLetter], capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("replay", "--parent", "shop", "--limit", "1")
    call_command("replay", "--parent", "shop", "--purge", "--yes")
    assert "2 dead letters deleted" in capsys.readouterr().out
    assert list(DeadLetter.objects.order_by("pk").values_list("batch__sequence", flat=True)) == [1, 4]


def test_letters_are_replayed_in_the_admin(street: list[DeadLetter], admin_client: Client) -> None:
    chosen = {"action": "replay", "_selected_action": [street[0].pk, street[3].pk]}
    for said in ("2 dead letters are in the journal again.", "0 dead letters are in the journal again."):
        assert said in admin_client.post(LETTERS, chosen, follow=True).content.decode()
    assert replayed() == [1, 4]
    everything = {"action": "replay", "_selected_action": [street[0].pk], "select_across": "1"}
    admin_client.post(LETTERS + "?q=orders&state__exact=waiting", everything)
    assert replayed() == [1, 3, 4]
    assert "Replayed" in admin_client.get(LETTERS).content.decode()


def test_purging_in_the_admin_takes_a_tick(street: list[DeadLetter], admin_client: Client) -> None:
    chosen = {"action": "purge", "_selected_action": [street[0].pk, street[1].pk]}
    assert "Nothing was deleted" in admin_client.post(LETTERS, chosen, follow=True).content.decode()
    assert DeadLetter.objects.count() == 4
    said = admin_client.post(LETTERS, chosen | {"for_ever": "on"}, follow=True).content.decode()
    assert "2 dead letters deleted." in said
    assert DeadLetter.objects.count() == 2


def test_who_may_only_look_can_neither_replay_nor_purge(street: list[DeadLetter], client: Client) -> None:
    looker = get_user_model().objects.create(username="looker", is_staff=True)
    looker.user_permissions.add(*Permission.objects.filter(codename__in=["view_deadletter", "view_parent"]))
    client.force_login(looker)
    for action in ("replay", "purge"):
        client.post(LETTERS, {"action": action, "_selected_action": [street[0].pk], "for_ever": "on"})
    Parent.objects.update(fuse_blown_ms=NOW_MS)
    client.post(PARENTS, {"action": "reset_fuse", "_selected_action": [street[0].parent_id]})
    assert (replayed(), DeadLetter.objects.count()) == ([], 4)
    assert not Parent.objects.filter(fuse_blown_ms=None).exists()


@pytest.mark.parametrize(("action", "accepted"), [("reset_fuse", False), ("accept_letters", True)])
def test_a_fuse_is_mended_in_the_admin(
    street: list[DeadLetter], admin_client: Client, action: str, accepted: bool
) -> None:
    Parent.objects.filter(name="shop").update(fuse_blown_ms=NOW_MS, fuse_reason="too much")
    shop = Parent.objects.get(name="shop")
    assert "too much" in admin_client.get(reverse("admin:lakehouse_parent_change", args=[shop.pk])).content.decode()
    chosen = {"action": action, "_selected_action": list(Parent.objects.values_list("pk", flat=True))}
    assert "Flushed again: shop." in admin_client.post(PARENTS, chosen, follow=True).content.decode()
    assert "None of these fuses is blown." in admin_client.post(PARENTS, chosen, follow=True).content.decode()
    assert list(Parent.objects.order_by("name").values_list("fuse_blown_ms", "fuse_accepted")) == [
        (None, False),
        (None, accepted),
    ]


def test_the_task_forgets_letters_by_age_if_it_is_told_to(street: list[DeadLetter], settings: Any) -> None:
    DeadLetter.objects.filter(pk=street[0].pk).update(created_ms=now_ms())
    assert tasks.forget_dead_letters() == 0
    settings.EVODB = dataclasses.replace(settings.EVODB, dead_letter_days=30)
    assert tasks.forget_dead_letters() == 3
    assert list(DeadLetter.objects.values_list("pk", flat=True)) == [street[0].pk]


def said(*command: str) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def test_letters_are_listed_with_their_reasons_and_read_by_programs(street: list[DeadLetter]) -> None:
    DeadLetter.objects.filter(pk=street[1].pk).update(entry_index=None, reason="no\nbatch", state="replayed")
    lines = said("letters").splitlines()
    assert [line.split()[0] for line in lines[::2]] == [str(letter.pk) for letter in reversed(street)]
    assert f"shop  shop-1  table items  batch {street[1].batch_id} whole" in lines[4]
    assert lines[5] == "    no batch"
    assert said("letters", "--parent", "bar").splitlines()[1] == "    not JSON"
    assert said("letters", "--child", "shop-1", "--state", "replayed", "--limit", "1").startswith(f"{street[1].pk}  ")
    assert said("letters", "--table", "nowhere") == "No dead letters.\n"
    document = json.loads(said("letters", "--limit", "1", "--json"))
    assert (document["id"], document["parent"], document["entry_index"]) == (street[-1].pk, "bar", 0)
    assert b64decode(document["payload"]) == street[-1].payload
    with pytest.raises(CommandError, match="--limit is 'x'"):
        said("letters", "--limit", "x")
