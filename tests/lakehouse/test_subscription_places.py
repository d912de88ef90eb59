"""Where a subscription may begin, what the journal keeps for it, and for how long."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command

from lakehouse.conf import Settings
from lakehouse.flush import history, payloads
from lakehouse.flush.history import DAY_MS
from lakehouse.models import Batch, BatchPayload, Flush, FlushTable, Parent
from lakehouse.subscriptions import counts, desk, forgetting, places
from lakehouse.subscriptions.models import Attempt, Delivery, Subscription
from tests.builders import NOW_MS, parent, run, source
from tests.lakehouse.subscription_site import LOOPBACK, Street, commit, receiver, subscribe

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def street(settings: Any, tmp_path: Path) -> Street:
    settings.EVODB = Settings(data_dir=tmp_path, webhook_networks=LOOPBACK)
    return Street(settings.EVODB)


@pytest.fixture
def shop() -> Any:
    return source(parent())


def at(ms: int) -> places.Start:
    return places.at_moment(Parent.objects.get(), ms, history_days=7, now_ms=NOW_MS + 10 * DAY_MS)


@pytest.mark.parametrize("lake_is_read", [False, True])
async def test_a_replay_from_a_moment_goes_over_into_what_is_committed_now(
    street: Street, shop: Any, lake_is_read: bool
) -> None:
    street.clock.now_ms = NOW_MS + 9 * DAY_MS
    for number in range(1, 5):
        await commit(street, shop, run(number, number))
        street.clock.now_ms += 1000
    async with receiver() as hook:
        one = await subscribe(street, shop, hook.url())
        start = await sync_to_async(at)(NOW_MS + 9 * DAY_MS + 2000)
        await sync_to_async(desk.put_at)(Subscription.objects.filter(pk=one.pk), start)
        if lake_is_read:
            await sync_to_async(BatchPayload.objects.all().delete)()
        await commit(street, shop, run(5, 5))
        await street.deliver()
        await commit(street, shop, run(6, 6))
        await street.deliver()
        assert sorted(hook.rows()) == ["r3", "r4", "r5", "r6"]


def test_a_moment_that_nobody_remembers_hears_how_far_history_reaches(street: Street, shop: Any) -> None:
    street.commit(shop, run(1, 1))
    with pytest.raises(places.NoSuchPlace, match="reaches back to 2023-11-17T22:15:20"):
        at(NOW_MS)
    assert at(NOW_MS + 11 * DAY_MS).place.commit_number == 1
    Parent.objects.update(created_ms=NOW_MS + 9 * DAY_MS)
    assert at(0) == places.Start(places.Place(0), 0)


def test_behind_a_snapshot_begins_what_was_committed_after_it(street: Street, shop: Any) -> None:
    for number in (1, 2):
        street.commit(shop, run(number, number))
    first, second = FlushTable.objects.order_by("pk").values_list("snapshot_id", flat=True)
    home = Parent.objects.get()
    assert places.behind_snapshot(home, first).place.commit_number == 1
    assert places.behind_snapshot(home, second).place.commit_number == 2
    with pytest.raises(places.NoSuchPlace, match="that is remembered made the snapshot 7"):
        places.behind_snapshot(home, 7)
    with pytest.raises(places.NoSuchPlace):
        places.behind_snapshot(parent("other"), first)


def test_payloads_stay_until_every_active_subscription_has_them(street: Street, shop: Any) -> None:
    street.commit(shop, run(1, 1))
    assert not BatchPayload.objects.exists()
    slow = street.subscribe(shop, "https://example.com/slow")
    paused = street.subscribe(shop, "https://example.com/paused")
    desk.pause(Subscription.objects.filter(pk=paused.pk))
    for number in (2, 3):
        street.commit(shop, run(number, number))
    assert BatchPayload.objects.count() == 2
    Subscription.objects.filter(pk=slow.pk).update(commit_number=2)
    assert forgetting.free_payloads(street.settings) == 1
    assert BatchPayload.objects.get().batch.sequence == 3
    Subscription.objects.filter(pk=slow.pk).update(commit_number=3)
    assert forgetting.free_payloads(street.settings) == 1
    assert not BatchPayload.objects.exists()


def test_beyond_the_bound_the_oldest_payloads_go_first(street: Street, shop: Any) -> None:
    street.subscribe(shop, "https://example.com/")
    for number in (1, 2, 3):
        street.commit(shop, run(number, number))
    size = Batch.objects.first().size_bytes  # type: ignore[union-attr]
    street.settings = dataclasses.replace(street.settings, subscription_backlog_bytes_max=2 * size)
    assert forgetting.free_payloads(street.settings) == 1
    assert sorted(BatchPayload.objects.values_list("batch__sequence", flat=True)) == [2, 3]
    assert payloads.forget(shop.parent_id) == 2


def test_history_stays_for_who_has_not_come_to_it_and_not_for_ever(street: Street, shop: Any) -> None:
    street.subscribe(shop, "https://example.com/")
    for number in (1, 2, 3):
        street.commit(shop, run(number, number))
    BatchPayload.objects.all().delete()
    Subscription.objects.update(commit_number=1, state="paused")
    history.forget(7, now_ms=NOW_MS + 8 * DAY_MS, hold_days=7)
    assert sorted(Flush.objects.values_list("commit_number", flat=True)) == [2, 3]
    assert Batch.objects.filter(flush__commit_number=2).count() == 1
    history.forget(7, now_ms=NOW_MS + 15 * DAY_MS, hold_days=7)
    assert list(Flush.objects.values_list("commit_number", flat=True)) == [3]


def test_what_was_delivered_and_old_letters_are_forgotten_and_nothing_else(street: Street, shop: Any) -> None:
    one = street.subscribe(shop, "https://example.com/")
    fields = {"subscription": one, "commit_number": 1}
    old = Delivery.objects.create(state="delivered", finished_ms=NOW_MS - 4 * DAY_MS, **fields)
    Attempt.objects.create(delivery=old, started_ms=1, duration_ms=1)
    Delivery.objects.create(state="dead", dead_ms=NOW_MS - 31 * DAY_MS, **fields)
    kept = [
        Delivery.objects.create(state="delivered", finished_ms=NOW_MS - 2 * DAY_MS, **fields),
        Delivery.objects.create(state="dead", dead_ms=NOW_MS - 29 * DAY_MS, finished_ms=1, **fields),
        Delivery.objects.create(state="pending", dead_ms=1, **fields),
    ]
    assert forgetting.forget(street.settings, now_ms=NOW_MS) == 2
    assert list(Delivery.objects.order_by("pk")) == kept
    assert not Attempt.objects.exists()


def test_what_nobody_waits_for_any_more_is_forgotten_as_old_letters_are(street: Street, shop: Any) -> None:
    living, paused, gone = (street.subscribe(shop, "https://example.com/") for _ in range(3))
    Subscription.objects.filter(pk=paused.pk).update(state="paused")
    Subscription.objects.filter(pk=gone.pk).update(state="disabled")
    old, young = NOW_MS - 31 * DAY_MS, NOW_MS - 29 * DAY_MS
    made = [
        Delivery.objects.create(subscription=one, commit_number=1, created_ms=created, next_attempt_ms=due)
        for one in (living, paused, gone)
        for created, due in ((old, old), (old, young), (young, young))
    ]
    assert forgetting.forget(street.settings, now_ms=NOW_MS) == 1
    assert list(Delivery.objects.order_by("pk")) == [*made[:6], *made[7:]]


def test_the_metrics_say_how_far_the_slowest_is_and_what_waits(street: Street, shop: Any) -> None:
    one = street.subscribe(shop, "https://example.com/")
    street.commit(shop, run(1, 1))
    Delivery.objects.create(subscription=one, commit_number=1, event_count=3)
    Delivery.objects.create(subscription=one, commit_number=1, state="dead", dead_ms=1)
    other = parent("other")
    samples = counts.samples({shop.parent_id: "a", other.pk: "b"}, now_ms=NOW_MS)
    found = {(sample.name, sample.labels): sample.value for sample in samples}
    names = ("s", "_lag_commits", "_pending_events", "_dead_letters")
    assert [found[f"dolake_subscription{name}", ("a",)] for name in names] == [1, 1, 3, 1]
    assert {value for (_, labels), value in found.items() if labels == ("b",)} == {0}


def test_a_list_of_none_says_so_and_how_one_is_made(capsys: Any) -> None:
    call_command("subscriptions", "list")
    assert capsys.readouterr().out.startswith("there is none yet; POST /subscriptions/subscribe makes one")


def test_the_command_lists_pauses_tests_and_replays(street: Street, shop: Any, capsys: Any) -> None:
    one = street.subscribe(shop, "https://example.com/")
    street.commit(shop, run(1, 1))

    def said(*arguments: str) -> str:
        call_command("subscriptions", *arguments)
        return str(capsys.readouterr().out)

    assert "hook (default): ** to webhook https://example.com/, active; 1 commits behind" in said("list")
    assert said("pause", "hook") == "1 paused\n"
    assert said("resume", str(one.pk), "--parent", "default") == "1 resumed\n"
    assert "is on its way as msg_" in said("test", "hook")
    assert said("retry", "hook") == "0 dead letters are queued again\n"
    snapshot = FlushTable.objects.get().snapshot_id
    assert "what came after commit 1" in said("replay", "hook", "--snapshot", str(snapshot))
    for wrong in (["pause", "hock"], ["replay", "hook", "--since", "soon"], ["replay", "hook", "--snapshot", "x"]):
        with pytest.raises(CommandError, match=r"known are: hook|wanted a date|wanted the id"):
            said(*wrong)
