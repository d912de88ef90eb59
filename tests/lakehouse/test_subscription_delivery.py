"""From a commit to a subscriber: real commits, real sockets, and a clock that is told what time it is."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from asgiref.sync import sync_to_async
from celery import shared_task
from channels.layers import get_channel_layer
from django.core.management import call_command
from django.db import OperationalError
from django.db.backends.signals import connection_created

from lakehouse.conf import Settings
from lakehouse.errors import StoreUnavailable
from lakehouse.models import Batch, BatchPayload, Flush, Parent
from lakehouse.subscriptions import deliverer, desk, fan_out, leases, settle
from lakehouse.subscriptions.models import Attempt, Delivery, Subscription
from tests.builders import NOW_MS, entry, parent, run, source
from tests.lakehouse.subscription_site import LOOPBACK, Receiver, Street, commit, receiver, subscribe

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def street(settings: Any, tmp_path: Path) -> Street:
    chosen = Settings(data_dir=tmp_path, webhook_networks=LOOPBACK, subscription_tasks="tests.*")
    settings.EVODB = chosen
    return Street(chosen)


@pytest.fixture
async def hook() -> AsyncIterator[Receiver]:
    async with receiver() as one:
        yield one


@sync_to_async
def a_shop(name: str = "default", **config: Any) -> Any:
    return source(parent(name, **config))


@sync_to_async
def only(model: Any) -> Any:
    return model.objects.get()


@sync_to_async
def every(model: Any, *fields: str) -> list[Any]:
    return list(model.objects.order_by("pk").values_list(*fields, flat=len(fields) == 1))


async def test_a_commit_is_told_in_its_order_signed_and_once(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    one = await subscribe(street, shop, hook.url("/hook?a=1"), "collection.*")
    await commit(street, shop, run(1, 3))
    await commit(street, shop, run(4, 5))
    await street.deliver()
    await street.deliver("d-2")
    assert sorted(hook.rows()) == ["r1", "r2", "r3", "r4", "r5"]
    first = hook.heard[0]
    assert (first.path, first.json["type"], first.json["collection"]) == ("/hook?a=1", "collection.insert", "orders")
    assert first.headers["host"] == f"127.0.0.1:{hook.port}"
    assert all(heard.is_signed(one) for heard in hook.heard)
    assert len({heard.headers["webhook-id"] for heard in hook.heard}) == 5
    found = await only(Subscription)
    assert (found.commit_number, found.delivered_events, found.lease_owner) == (2, 5, "")
    assert await every(Attempt, "status", "error") == [(204, "")] * 5
    assert await every(Delivery, "state", "events") == [("delivered", b"")] * 5


async def test_who_asks_for_something_else_hears_nothing_and_moves_on(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url("/none"), "collection.delete")
    await subscribe(street, shop, hook.url("/items"), "**", table="items")
    await subscribe(street, shop, hook.url("/star"), "*.insert")
    await commit(street, shop, [entry(1), entry(2, table="items")])
    await street.deliver()
    assert sorted((one.path, one.json["docId"]) for one in hook.heard) == [
        ("/items", "r2"),
        ("/star", "r1"),
        ("/star", "r2"),
    ]
    assert set(await every(Subscription, "commit_number")) == {1}


async def test_a_tenant_hears_nothing_of_another_one(street: Street, hook: Receiver) -> None:
    ours, theirs = await a_shop("ours"), await a_shop("theirs")
    await sync_to_async(Parent.objects.filter(name="theirs").update)(namespace="theirs")
    await subscribe(street, ours, hook.url("/ours"))
    await subscribe(street, theirs, hook.url("/theirs"))
    await commit(street, ours, run(1, 1))
    await commit(street, theirs, run(2, 2))
    await street.deliver()
    assert sorted((one.path, one.json["docId"]) for one in hook.heard) == [("/ours", "r1"), ("/theirs", "r2")]


async def test_what_fails_comes_again_under_the_same_id_and_later_each_time(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    one = await subscribe(street, shop, hook.url())
    hook.answers = [
        (503, b"busy"),
        (302, b"", {"location": "http://169.254.169.254/"}),
        (429, b"", {"retry-after": "60"}),
    ]
    await commit(street, shop, run(1, 1))
    await street.deliver()
    await street.later(999)
    assert len(hook.heard) == 1
    await street.later(1)
    assert len(hook.heard) == 2
    await street.later(2000)
    await street.later(59_999)
    assert len(hook.heard) == 3
    await street.later(1)
    assert len({heard.headers["webhook-id"] for heard in hook.heard}) == 1
    assert len({heard.headers["webhook-timestamp"] for heard in hook.heard}) > 1
    assert hook.heard[-1].is_signed(one, street.clock())
    assert [status for status, _ in await every(Attempt, "status", "error")] == [503, 302, 429, 204]
    assert (await every(Attempt, "error"))[
        1
    ] == "answered 302: a redirect, and none is followed; the target has to be where it answers"
    assert await every(Delivery, "state", "attempts_made", "last_error") == [("delivered", 4, "")]


async def test_five_failures_are_a_dead_letter_and_a_retry_is_the_same_message(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url())
    hook.decide = lambda _: (500, b"no")
    await commit(street, shop, run(1, 1))
    for _ in range(6):
        await street.later(10_000)
    assert len(hook.heard) == 5
    letter = await only(Delivery)
    assert (letter.state, letter.reason, letter.last_error) == ("dead", "max_retries_exceeded", "answered 500: no")
    assert (letter.dead_ms, (await only(Subscription)).dead_events) == (street.clock() - 10_000, 1)
    assert await sync_to_async(desk.retry)(Delivery.objects.all(), now_ms=street.clock()) == 1
    await street.deliver()
    assert ((await only(Delivery)).state, (await only(Delivery)).dead_ms is not None) == ("pending", True)
    hook.decide = None
    await street.later(1000)
    letter = await only(Delivery)
    assert (letter.state, letter.dead_ms, letter.reason) == ("delivered", None, "")
    assert len({heard.headers["webhook-id"] for heard in hook.heard}) == 1
    assert await sync_to_async(desk.retry)(Delivery.objects.all(), now_ms=street.clock()) == 0


async def test_what_is_refused_for_good_is_a_letter_at_once_and_410_ends_the_subscription(
    street: Street, hook: Receiver
) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url())
    hook.answers = [(422, b"bad")]
    await commit(street, shop, run(1, 1))
    await street.deliver()
    assert await every(Delivery, "state", "reason") == [("dead", "rejected")]
    assert (await only(Subscription)).state == "active"
    hook.decide = lambda _: (410, b"")
    await commit(street, shop, run(2, 2))
    await street.deliver()
    await commit(street, shop, run(3, 3))
    await street.later(60_000)
    assert len(hook.heard) == 2
    found = await only(Subscription)
    assert (found.state, found.state_reason) == ("disabled", "the target answered 410 Gone")


async def test_a_batch_is_sent_when_it_is_full_or_has_waited(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url(), batch_events=3, batch_ms=5000)
    await commit(street, shop, run(1, 2))
    await street.deliver()
    assert hook.heard == []
    await commit(street, shop, run(3, 7))
    await street.deliver()
    assert [len(heard.events) for heard in hook.heard] == [3, 3]
    await street.later(4999)
    assert len(hook.heard) == 2
    await street.later(1)
    assert sorted(hook.rows()) == [f"r{number}" for number in range(1, 8)]
    assert [len(heard.events) for heard in hook.heard] == [3, 3, 1]
    assert hook.heard[0].json["batchId"] == hook.heard[0].headers["webhook-id"]


async def test_a_message_of_several_is_a_list_also_when_no_batches_are_wanted_any_more(
    street: Street, hook: Receiver
) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url(), batch_events=3)
    await commit(street, shop, run(1, 2))
    await street.deliver()
    await sync_to_async(Subscription.objects.update)(batch_events=1)
    await street.later(1000)
    assert hook.rows() == ["r1", "r2"]


async def test_of_a_batch_that_was_taken_in_part_only_the_rest_comes_again(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url(), batch_events=3)

    def two_of_three(heard: Any) -> tuple[int, bytes]:
        ids = [event["id"] for event in heard.events]
        said = [{"eventId": one, "success": one == ids[0], "error": "busy"} for one in ids[:2]]
        return 200, json.dumps({"results": said}).encode()

    hook.decide = two_of_three
    await commit(street, shop, run(1, 3))
    await street.deliver()
    assert await every(Delivery, "event_count", "last_error") == [(2, "the receiver took 1 of 3 events")]
    for _ in range(3):
        await street.later(5000)
    assert [len(heard.events) for heard in hook.heard] == [3, 2, 1]
    assert len({heard.headers["webhook-id"] for heard in hook.heard}) == 3
    took = "the receiver took 1 of {} events"
    assert await every(Attempt, "status", "error") == [(200, took.format(3)), (200, took.format(2)), (200, "")]
    assert (await only(Subscription)).delivered_events == 3
    assert await every(Delivery, "state") == ["delivered"]


async def test_a_target_that_never_answers_holds_up_only_itself(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    hook.decide = lambda heard: None if heard.path == "/stuck" else (200, b"")
    stuck = await subscribe(street, shop, hook.url("/stuck"))
    await subscribe(street, shop, hook.url("/quick"))
    await commit(street, shop, run(1, 30))
    one = street.deliverer()
    while sum(heard.path == "/quick" for heard in hook.heard) < 30:
        await one.round()
    assert sum(heard.path == "/stuck" for heard in hook.heard) <= street.settings.subscription_concurrency
    assert await sync_to_async(Delivery.objects.filter(subscription=stuck, state="pending").count)() == 30
    for lane in one._sending.lanes:
        lane.cancel()
    one._kept.close()


async def test_what_waits_in_memory_for_one_that_is_paused_is_not_sent(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    hook.decide = lambda _: None
    await subscribe(street, shop, hook.url())
    await commit(street, shop, run(1, 30))
    one = street.deliverer()
    while len(hook.heard) < street.settings.subscription_concurrency:
        await one.round()
    await sync_to_async(desk.pause)(Subscription.objects.all())
    await one.round()
    hook.decide = None
    one._kept.close()
    for lane in one._sending.lanes:
        lane.cancel()
    await asyncio.wait(one._sending.lanes)
    assert len(hook.heard) == street.settings.subscription_concurrency
    assert await sync_to_async(Delivery.objects.filter(state="pending").count)() == 30
    await sync_to_async(desk.resume)(Subscription.objects.all())
    await street.later(street.settings.subscription_lease_ms)
    assert set(hook.rows()) == {f"r{number}" for number in range(1, 31)}


async def test_what_waits_in_memory_is_not_begun_when_the_lease_may_have_run_out(
    street: Street, hook: Receiver
) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url())
    await commit(street, shop, run(1, 30))

    def much_later(_: Any) -> Any:
        street.clock.now_ms += street.settings.subscription_lease_ms
        return 204, b""

    hook.decide = much_later
    one = street.deliverer()
    while not (one._sending.lanes or hook.heard):  # another round would take the lease anew
        await one.round()
    await asyncio.gather(*one._sending.lanes)
    assert len(hook.heard) <= street.settings.subscription_concurrency
    hook.decide = None
    await one.until_idle()
    await one.stop()
    assert sorted(hook.rows()) == sorted(f"r{number}" for number in range(1, 31))


async def test_what_waits_in_memory_goes_to_the_target_the_subscription_has_now(
    street: Street, hook: Receiver, settings: Any
) -> None:
    changed = dataclasses.replace(street.settings, subscription_concurrency=1, webhook_timeout_ms=500)
    street.settings = settings.EVODB = changed
    shop = await a_shop()
    hook.decide = lambda heard: None if heard.path == "/old" else (204, b"")
    await subscribe(street, shop, hook.url("/old"))
    await commit(street, shop, run(1, 3))
    one = street.deliverer()
    while not hook.heard:
        await one.round()
    await sync_to_async(Subscription.objects.update)(target=hook.url("/new"))
    await one.until_idle()
    await one.stop()
    assert [heard.path for heard in hook.heard] == ["/old", "/new", "/new"]


def test_the_process_that_delivers_may_have_as_many_connections_as_the_system_allows(street: Street) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        call_command("subscriptions", "deliver", "--until-idle")
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_only_small_messages_are_taken_ahead(street: Street) -> None:
    shop = await a_shop()
    one = await subscribe(street, shop, "https://example.com/")
    for size in (10, 10, 10, 1000, 10):
        await sync_to_async(Delivery.objects.create)(subscription=one, commit_number=1, events=bytes(size))
    ids = await every(Delivery, "pk")
    choose = sync_to_async(settle.choose)
    found = await choose(one.pk, room=1, but=(), now_ms=NOW_MS, ahead=9, ahead_bytes=100)
    assert found == (ids[:3], [], 30, False)
    found = await choose(one.pk, room=4, but=ids[:1], now_ms=NOW_MS, ahead=9, ahead_bytes=100)
    assert found == (ids[1:], [], 1030, True)
    found = await choose(one.pk, room=2, but=(), now_ms=NOW_MS)
    assert found == (ids[:2], [], 20, False)
    found = await choose(one.pk, room=4, but=(), now_ms=NOW_MS, room_bytes=15, ahead=9, ahead_bytes=100)
    assert found == (ids[:2], [], 20, False)
    found = await choose(one.pk, room=4, but=(), now_ms=NOW_MS, room_bytes=0, ahead=9, ahead_bytes=100)
    assert found == ([], [], 0, False)


async def test_a_tenant_whose_targets_never_answer_fills_no_memory_and_holds_up_nobody_else(
    street: Street, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse.subscriptions.deliverer.TENANT_BYTES", 1)
    stuck, quick = await a_shop("stuck"), await a_shop("quick")
    hook.decide = lambda heard: None if heard.path == "/stuck" else (200, b"")
    for _ in range(3):
        await subscribe(street, stuck, hook.url("/stuck"))
    await subscribe(street, quick, hook.url("/quick"))
    one = street.deliverer()
    for shop in (stuck, quick):
        await commit(street, shop, run(1, 10))
    while sum(heard.path == "/quick" for heard in hook.heard) < 10:
        await one.round()
    assert [heard.path for heard in hook.heard].count("/stuck") == 1
    hook.decide = None
    one._kept.close()
    for lane in one._sending.lanes:
        lane.cancel()
    await asyncio.wait(one._sending.lanes)
    await street.later(street.settings.subscription_lease_ms)
    assert [heard.path for heard in hook.heard].count("/stuck") == 1 + 30


async def test_subscriptions_at_two_places_have_their_patterns_looked_at_once(
    street: Street, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    class Counted(fan_out._Index):
        def __post_init__(self) -> None:
            super().__post_init__()
            made.append(len(self.patterns))

    monkeypatch.setattr(fan_out, "_Index", Counted)
    monkeypatch.setattr(fan_out, "CHUNK_EVENTS", 2)
    shop = await a_shop()
    await subscribe(street, shop, hook.url("/a"))
    await commit(street, shop, run(1, 1))
    one = await subscribe(street, shop, hook.url("/b"))
    await sync_to_async(Subscription.objects.filter(pk=one.pk).update)(commit_number=1)
    await commit(street, shop, run(2, 9))
    await street.deliver()
    assert [heard.path for heard in hook.heard].count("/b") == 8
    assert made.count(1) == 2


async def test_more_than_one_transaction_of_attempts_is_written_down(
    street: Street, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse.subscriptions.deliverer.SETTLED_MAX", 2)
    shop = await a_shop()
    await subscribe(street, shop, hook.url())
    hook.answers = [(503, b"busy")]
    await commit(street, shop, run(1, 7))
    await street.deliver()
    assert sorted(await every(Delivery, "state")) == ["delivered"] * 6 + ["pending"]
    assert await sync_to_async(Attempt.objects.count)() == 7


async def test_a_subscription_with_too_much_on_its_way_waits_at_its_place(
    street: Street, hook: Receiver, settings: Any
) -> None:
    street.settings = settings.EVODB = dataclasses.replace(street.settings, subscription_pending_max=10)
    shop = await a_shop()
    await subscribe(street, shop, hook.url())
    hook.decide = lambda _: (503, b"")
    for first in (1, 11, 21):
        await commit(street, shop, run(first, first + 9))
    await street.deliver()
    assert await sync_to_async(Delivery.objects.count)() == 10
    hook.decide = None
    await street.later(5000)
    assert sorted(hook.rows()[-30:]) == sorted(f"r{number}" for number in range(1, 31))
    assert (await only(Subscription)).commit_number == 3


async def test_a_batch_larger_than_a_chunk_is_told_whole_and_once(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url(), batch_events=1000)
    await commit(street, shop, run(1, 1203))
    await street.deliver()
    await street.later(1000)
    assert hook.rows() == [f"r{number}" for number in range(1, 1204)]


async def test_a_paused_subscription_goes_on_from_its_place(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url())
    assert await sync_to_async(desk.pause)(Subscription.objects.all()) == 1
    await commit(street, shop, run(1, 2))
    await street.deliver()
    assert hook.heard == []
    assert await sync_to_async(desk.resume)(Subscription.objects.all()) == 1
    await street.deliver()
    assert sorted(hook.rows()) == ["r1", "r2"]
    await sync_to_async(desk.unsubscribe)(Subscription.objects.all())
    await commit(street, shop, run(3, 3))
    await sync_to_async(desk.resume)(Subscription.objects.all())
    await commit(street, shop, run(4, 4))
    await street.deliver()
    assert sorted(hook.rows()) == ["r1", "r2", "r4"]


async def test_a_test_event_goes_the_way_of_all_others(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    one = await subscribe(street, shop, hook.url(), "collection.delete")
    await sync_to_async(desk.test_fire)(one, now_ms=NOW_MS)
    await street.deliver()
    assert [heard.json["type"] for heard in hook.heard] == ["subscription.test"]
    assert hook.heard[0].is_signed(one)


async def test_payloads_that_are_gone_are_read_from_the_lake(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url("/early"))
    await commit(street, shop, [*run(1, 2), entry(3, table="items", after={"id": 3, "n": 1.5})])
    await street.deliver()
    early = {heard.json["id"]: heard.json for heard in hook.heard}
    late = await subscribe(street, shop, hook.url("/late"))
    await sync_to_async(Subscription.objects.filter(pk=late.pk).update)(commit_number=0)
    await sync_to_async(BatchPayload.objects.all().delete)()
    await street.deliver()
    assert {heard.json["id"]: heard.json for heard in hook.heard if heard.path == "/late"} == early
    assert len(early) == 3


async def test_a_place_that_cannot_be_read_holds_up_only_who_is_there(street: Street, hook: Receiver) -> None:
    ours, theirs = await a_shop("ours"), await a_shop("theirs")
    await subscribe(street, ours, hook.url("/ours"))
    await subscribe(street, theirs, hook.url("/theirs"))
    await commit(street, ours, run(1, 1))
    await commit(street, theirs, run(2, 2))
    await sync_to_async(BatchPayload.objects.filter(batch__parent__name="ours").delete)()
    away = street.deliverer()
    away._fan_out._reader._read_lake = lambda *_: (_ for _ in ()).throw(StoreUnavailable("the store is away"))
    await away.until_idle()
    await away.stop()
    assert hook.rows() == ["r2"]
    await street.deliver()
    assert sorted(hook.rows()) == ["r1", "r2"]


async def test_one_that_comes_too_late_is_stopped_and_never_skips_in_silence(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url())
    for number in range(1, 4):
        await commit(street, shop, run(number, number))
    await sync_to_async(Batch.objects.filter(flush__commit_number__lte=2).update)(flush=None)
    await sync_to_async(Flush.objects.filter(commit_number__lte=2).delete)()
    await street.deliver()
    found = await only(Subscription)
    assert (found.state, hook.heard) == ("disabled", [])
    assert "commits 1 to 2 are not remembered any more" in found.state_reason


async def test_a_name_that_turns_into_a_private_address_is_not_connected_to(
    street: Street, hook: Receiver, settings: Any
) -> None:
    shop = await a_shop()
    await subscribe(street, shop, f"http://localhost:{hook.port}/")
    street.settings = settings.EVODB = dataclasses.replace(street.settings, webhook_networks="")
    await commit(street, shop, run(1, 1))
    await street.deliver()
    assert hook.heard == []
    assert "where no webhook may go" in (await every(Attempt, "error"))[0]


HEARD: list[dict[str, Any]] = []


@shared_task(name="tests.on_event")
def on_event(**told: Any) -> None:
    HEARD.append(told)


async def test_a_celery_task_and_a_group_of_channels_hear_as_webhooks_do(street: Street, at_once: None) -> None:
    HEARD.clear()
    shop = await a_shop()
    await subscribe(street, shop, "tests.on_event", target_kind="celery")
    group = await subscribe(street, shop, "orders", target_kind="channels", name="group")
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(desk.target_of(group), channel)
    await commit(street, shop, run(1, 1))
    await street.deliver()
    heard = await asyncio.wait_for(layer.receive(channel), 5)
    assert (heard["type"], heard["subscription"], heard["events"][0]["docId"]) == ("evodb.message", "group", "r1")
    assert await every(Delivery, "state") == ["delivered", "delivered"]


async def test_a_celery_task_hears_every_digit_of_a_number(street: Street, at_once: None) -> None:
    HEARD.clear()
    shop = await a_shop()
    await subscribe(street, shop, "tests.on_event", target_kind="celery")
    doc = {"total": 12345678901234567890123}
    await commit(street, shop, [entry(1, after=doc)])
    await street.deliver()
    assert [one["events"][0]["doc"] for one in HEARD] == [doc]


async def test_a_task_that_is_not_allowed_any_more_is_not_called(street: Street, settings: Any) -> None:
    shop = await a_shop()
    await subscribe(street, shop, "tests.on_event", target_kind="celery")
    street.settings = settings.EVODB = dataclasses.replace(street.settings, subscription_tasks="")
    await commit(street, shop, run(1, 1))
    await street.deliver()
    assert "EVODB_SUBSCRIPTION_TASKS" in (await every(Attempt, "error"))[0]


async def test_what_was_sent_and_not_written_down_is_sent_again_under_the_same_id(
    street: Street, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies between the answer and the note of it; another one takes over when the lease has run out."""
    shop = await a_shop()
    await subscribe(street, shop, hook.url())
    await commit(street, shop, run(1, 2))
    dying = street.deliverer("dying")
    with monkeypatch.context() as patched:
        patched.setattr(settle, "record", lambda *_, **__: os.abort())
        await dying.round()
        await asyncio.wait(list(dying._sending.lanes))
    dying._kept.close()
    assert len(hook.heard) == 2
    await street.deliver("other")
    assert len(hook.heard) == 2
    await street.later(street.settings.subscription_lease_ms)
    assert len(hook.heard) == 4
    assert len({heard.headers["webhook-id"] for heard in hook.heard}) == 2
    await dying.stop()
    assert await every(Delivery, "state", "attempts_made") == [("delivered", 1), ("delivered", 1)]


async def test_of_two_processes_each_event_is_told_by_one(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url())
    await commit(street, shop, run(1, 20))
    one, two = street.deliverer("d-1"), street.deliverer("d-2")
    await asyncio.gather(one.until_idle(), two.until_idle())
    assert sorted(hook.rows()) == sorted(f"r{number}" for number in range(1, 21))
    await one.stop()
    await commit(street, shop, run(21, 21))
    await two.until_idle()
    await two.stop()
    assert len(hook.heard) == 21


async def test_nobody_waits_for_a_clock_that_was_a_day_ahead(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url())
    hook.answers = [(503, b"")]
    await commit(street, shop, run(1, 1))
    street.clock.now_ms += 86_400_000
    ahead = street.deliverer("ahead")
    await ahead.until_idle()
    street.clock.now_ms = NOW_MS
    await street.deliver()
    assert hook.rows() == ["r1", "r1"]
    assert await every(Delivery, "state") == ["delivered"]


@pytest.mark.parametrize("answer", [(500, b"no\0way"), (404, b"\0")])
async def test_an_answer_with_a_nul_in_it_keeps_nobody_elses_messages_waiting(
    street: Street, hook: Receiver, answer: Any
) -> None:
    shop, other = await a_shop(), await a_shop("other")
    await subscribe(street, shop, hook.url("/nul"))
    await subscribe(street, other, hook.url("/fine"))
    hook.decide = lambda heard: answer if heard.path == "/nul" else (204, b"")
    await commit(street, shop, run(1, 1))
    await commit(street, other, run(1, 1))
    one = street.deliverer()
    for _ in range(20):
        await one.round()
    await one.stop()
    assert sorted(await every(Delivery, "state")) in (["delivered", "pending"], ["dead", "delivered"])
    assert sum("\0" in error for error in await every(Attempt, "error")) == 0


@pytest.mark.parametrize("said", [b'{"results":[{"eventId":"\xff"}]}', b'{"results":' + b"[" * 5000])
async def test_a_receiver_of_batches_that_answers_rubbish_took_all_of_it(
    street: Street, hook: Receiver, said: bytes
) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url(), batch_events=2)
    hook.answers = [(200, said)]
    await commit(street, shop, run(1, 2))
    await asyncio.wait_for(street.deliver(), 20)
    assert await every(Delivery, "state") == ["delivered"]


async def test_a_clock_that_jumps_by_years_during_a_message_stops_no_deliverer(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url())
    await commit(street, shop, run(1, 1))

    def answer(_: Any) -> Any:
        street.clock.now_ms += 56 * 365 * 24 * 3600 * 1000
        return 204, b""

    hook.decide = answer
    one = street.deliverer()
    for _ in range(20):
        await one.round()
    await one.stop()
    assert await every(Delivery, "state") == ["delivered"]
    assert await every(Attempt, "duration_ms") == [2**31 - 1]


async def test_an_event_with_two_ids_of_which_a_receiver_takes_one_stops_no_deliverer(
    street: Street, hook: Receiver
) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url(), batch_events=2)
    hook.answers = [(200, b'{"results":[{"eventId":"b","success":true}]}')]
    text = b'{"id":5,"id":"b","type":"a.b","ts":"2026-01-31T12:00:00.000Z"}'
    await commit(street, shop, [entry(at, table="events")._replace(after=text) for at in (1, 2)])
    await street.deliver()
    assert await every(Delivery, "state", "last_error") == [("pending", "the receiver took 0 of 2 events")]


async def test_who_delivers_stops_in_order_and_in_a_sentence_while_the_database_is_away(
    street: Street, hook: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = street.deliverer()
    await one.round()
    monkeypatch.setattr(leases, "leave", Mock(side_effect=OperationalError("connection refused")))
    await one.stop()
    assert "stopped without the database, so others wait for the leases to end: connection refused" in caplog.text


@pytest.mark.both
async def test_who_delivers_keeps_its_connection_and_after_an_error_has_another_one(
    street: Street, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times a second a new one was opened, whether there was anything to deliver or not."""
    made, stopping, take = list[object](), asyncio.Event(), leases.take

    def away_once_then_stop(*_: object, **__: object) -> list[int]:
        monkeypatch.setattr(leases, "take", lambda *args, **named: stopping.set() or take(*args, **named))
        raise OperationalError("the server closed the connection unexpectedly")

    def note(**named: object) -> None:
        made.append(named["connection"])

    one = street.deliverer()
    await one.round()
    connection_created.connect(note)
    try:
        for _ in range(5):
            await one.round()
        assert not made
        monkeypatch.setattr(leases, "take", away_once_then_stop)
        monkeypatch.setattr(deliverer, "ERROR_PAUSE_S", 0)
        await one.run(stopping)
    finally:
        connection_created.disconnect(note)
    assert len(made) == 1


async def test_a_target_that_gives_up_many_messages_at_once_is_one_line_of_the_log(
    street: Street, hook: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Three thousand changes and a receiver that was away were three thousand lines."""
    shop = await a_shop()
    await subscribe(street, shop, hook.url(), "collection.*", attempts_max=1)
    await commit(street, shop, run(1, 20))
    hook.decide = lambda _: (500, b"no")
    await street.deliver()
    assert await every(Delivery, "state") == ["dead"] * 20
    lines = [record.getMessage() for record in caplog.records if "dead letter" in record.getMessage()]
    assert len(lines) < 10
    assert any(" messages of hook are dead letters, the last is msg_" in line for line in lines), lines
