"""What /metrics says of deliveries: what was taken, what failed, how long it took, and that no counter ever falls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from lakehouse.conf import Settings
from lakehouse.metrics import DELIVERY_SECONDS
from lakehouse.subscriptions import counts, desk, forgetting
from lakehouse.subscriptions.models import Delivery, Subscription
from tests.builders import parent, run, source
from tests.lakehouse.subscription_site import LOOPBACK, Receiver, Street, commit, receiver, subscribe

pytestmark = pytest.mark.django_db(transaction=True)
DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def street(settings: Any, tmp_path: Path) -> Street:
    settings.EVODB = Settings(data_dir=tmp_path, webhook_networks=LOOPBACK)
    return Street(settings.EVODB)


@pytest.fixture
async def hook() -> AsyncIterator[Receiver]:
    async with receiver() as one:
        yield one


@sync_to_async
def a_shop(name: str = "eu") -> Any:
    return source(parent(name))


@sync_to_async
def counted(street: Street, shop: Any, name: str = "eu") -> dict[str, float]:
    """The samples of a parent, under what comes behind `dolake_subscription_`."""
    found = {}
    for sample in counts.samples({shop.parent_id: name}, now_ms=street.clock()):
        assert sample.labels == (name,)
        short = sample.name.removeprefix("dolake_subscription_") + sample.suffix
        found[f"{short} {sample.le}".strip()] = sample.value
    return found


async def test_what_was_taken_and_how_long_it_took_is_counted(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url(), "collection.*")
    before = await counted(street, shop)
    assert not any(value for name, value in before.items() if name != "dolake_subscriptions")
    hook.answers = [(500, b"no"), (500, b"no")]
    await commit(street, shop, run(1, 2))
    await street.deliver()
    street.clock.now_ms += 700
    waiting = await counted(street, shop)
    assert (waiting["pending_events"], waiting["pending_age_seconds"], waiting["failed_attempts_total"]) == (2, 0.7, 2)
    await street.later(300)
    await commit(street, shop, run(3, 3))
    await street.deliver()
    found = await counted(street, shop)
    assert (found["delivered_events_total"], found["failed_attempts_total"], found["dead_events_total"]) == (3, 2, 0)
    assert (found["delivery_seconds_count"], found["delivery_seconds_sum"]) == (3, 2.0)
    assert [found[f"delivery_seconds_bucket {le}"] for le in ("0.1", "0.5", "1", "1800", "+Inf")] == [1, 1, 3, 3, 3]
    assert (found["pending_events"], found["pending_age_seconds"]) == (0, 0)


async def test_a_batch_that_was_taken_in_part_counts_each_event_once(street: Street, hook: Receiver) -> None:
    shop = await a_shop()
    await subscribe(street, shop, hook.url(), batch_events=3)
    hook.decide = lambda heard: (
        200,
        b'{"results":[{"eventId":"%s","success":true}]}' % heard.events[0]["id"].encode(),
    )
    await commit(street, shop, run(1, 3))
    await street.deliver()
    for _ in range(3):
        await street.later(5000)
    found = await counted(street, shop)
    assert (found["delivered_events_total"], found["failed_attempts_total"]) == (3, 2)
    assert found["delivery_seconds_count"] == 1


async def test_what_was_given_up_is_counted_once_and_no_counter_falls_when_it_is_forgotten(
    street: Street, hook: Receiver
) -> None:
    shop = await a_shop()
    one = await subscribe(street, shop, hook.url())
    hook.answers = [(204, b""), (422, b"never"), (422, b"never")]
    await commit(street, shop, run(1, 2))
    await street.deliver()
    await sync_to_async(desk.retry)(Delivery.objects.all(), now_ms=street.clock())
    await street.deliver()
    found = await counted(street, shop)
    assert (found["delivered_events_total"], found["dead_events_total"], found["failed_attempts_total"]) == (1, 1, 2)
    assert found["dead_letters"] == 1
    late_ms = street.clock() + 31 * DAY_MS
    assert await sync_to_async(forgetting.forget)(street.settings, now_ms=late_ms) == 2
    await sync_to_async(Subscription.objects.filter(pk=one.pk).delete)()
    after = await counted(street, shop)
    assert after["dead_letters"] == 0
    counters = [name for name in found if name.endswith("_total") or name.startswith("delivery_seconds")]
    assert {name: after[name] for name in counters} == {name: found[name] for name in counters}
    assert len(counters) == 3 + len(DELIVERY_SECONDS) + 3


async def test_what_waits_for_a_paused_subscription_is_no_reason_to_wake_anybody(
    street: Street, hook: Receiver
) -> None:
    shop = await a_shop()
    one = await subscribe(street, shop, hook.url())
    hook.decide = lambda _: (500, b"no")
    await commit(street, shop, run(1, 1))
    await street.deliver()
    await sync_to_async(desk.pause)(Subscription.objects.filter(pk=one.pk))
    street.clock.now_ms += DAY_MS
    found = await counted(street, shop)
    assert (found["pending_events"], found["pending_age_seconds"]) == (1, 0)
