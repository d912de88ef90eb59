"""Rates over HTTP with two processes: with Redis both count for both, without it each for itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
import redis

from lakehouse.conf import Settings
from lakehouse.events.quota import Quota
from lakehouse.limits import shared_rates
from lakehouse.limits.bucket import UNITS
from lakehouse.limits.shared import PREFIX
from lakehouse.limits.shared_rates import SharedRates
from lakehouse.parent.house import move_in, open_house
from tests.lakehouse import test_limits_doorman as street
from tests.lakehouse.events_site import events, ingest, key_of
from tests.lakehouse.http_site import ask

store = street.store
NOW_MS = 1_700_000_000_000


@contextlib.asynccontextmanager
async def two(url):
    found = SharedRates(url), SharedRates(url)
    try:
        yield found
    finally:
        for one in found:
            await one.close()


def quotas(rates, *, requests_max=3, events_max=1000, whose="key 1"):
    return [Quota(whose, requests_max=requests_max, events_max=events_max, rates=one) for one in rates]


FAR_MS = 3_600_000


async def test_two_processes_share_a_bucket(store, redis_url):
    key = PREFIX + "bucket:a"
    async with two(redis_url) as both:
        found = [await both[n % 2].take_token("a", per_second=1, capacity=4 * UNITS) for n in range(4)]
        assert [one.is_taken for one in found] == [True] * 4
        assert found[0].units == 3 * UNITS
        assert 0 < store.pttl(key) <= 4001
        store.hset(key, mapping={"units": 0, "at": int(store.hget(key, "at")) + FAR_MS})
        assert [(await one.take_token("a", per_second=1, capacity=4 * UNITS)).is_taken for one in both] == [False] * 2
        assert (await both[0].take_token("b", per_second=1, capacity=4 * UNITS)).is_taken


async def test_a_bucket_fills_by_the_clock_of_redis(store, redis_url):
    key = PREFIX + "bucket:a"
    async with two(redis_url) as both:
        assert (await both[0].take_token("a", per_second=1, capacity=UNITS)).is_taken
        at_ms = int(store.hget(key, "at"))
        store.hset(key, "at", at_ms + FAR_MS)  # a clock that was ahead takes nothing and gives nothing
        assert not (await both[1].take_token("a", per_second=1, capacity=UNITS)).is_taken
        store.hset(key, "at", at_ms - 1000)
        assert (await both[1].take_token("a", per_second=1, capacity=UNITS)).is_taken


async def test_two_processes_share_the_requests_and_the_events_of_a_minute(store, redis_url):
    async with two(redis_url) as both:
        here, there = quotas(both)
        assert [await one.take_request(NOW_MS) for one in (here, there, here, there)] == [True, True, True, False]
        assert there.left(NOW_MS).requests == 0
        assert 1 <= there.wait_s(NOW_MS) <= 61
        assert await here.take_events(900, NOW_MS)
        assert not await there.take_events(101, NOW_MS)
        assert await there.take_events(100, NOW_MS)
        assert (there.left(NOW_MS).events, there.left(NOW_MS).events_max) == (0, 1000)
        (stranger, _) = quotas(both, whose="key 2")
        assert await stranger.take_request(NOW_MS)


async def test_a_minute_slides_and_redis_forgets_who_is_silent(store, redis_url):
    async with two(redis_url) as both:
        here, there = quotas(both, requests_max=1)
        assert await here.take_request(NOW_MS)
        key = PREFIX + "minute:key 1"
        (field,) = store.hkeys(key)
        store.delete(key)
        store.hset(key, f"{int(field[:-1]) - 30}r", 1)
        assert not await there.take_request(NOW_MS)
        assert 1 <= there.wait_s(NOW_MS) <= 31
        store.delete(key)
        store.hset(key, mapping={f"{int(field[:-1]) - 63}r": 1, f"{int(field[:-1]) + 100}r": 1})
        assert await there.take_request(NOW_MS)
        assert 1 <= store.ttl(key) <= 62
        assert len(store.hkeys(key)) == 1


async def test_what_is_refused_costs_nothing(store, redis_url):
    async with two(redis_url) as both:
        here, there = quotas(both, requests_max=1)
        assert await here.take_request(NOW_MS)
        before = store.hgetall(PREFIX + "minute:key 1")
        for _ in range(5):
            assert not await there.take_request(NOW_MS)
            assert not await there.take_events(1001, NOW_MS)
        assert store.hgetall(PREFIX + "minute:key 1") == before


async def test_a_hundred_requests_at_once_are_counted_exactly(store, redis_url):
    async with two(redis_url) as both:
        some = quotas(both, requests_max=30)
        taken = await asyncio.gather(*(some[n % 2].take_request(NOW_MS) for n in range(100)))
        assert sum(taken) == 30


async def test_while_redis_is_away_each_process_counts_for_itself_and_knows_what_it_let_in(
    store, redis_url, monkeypatch, caplog
):
    async with two(redis_url) as both:
        here, there = quotas(both, requests_max=2)
        assert await here.take_request(NOW_MS)
        with closed_port() as port:
            for one in both:
                await one.close()
                one.__init__(f"redis://127.0.0.1:{port}/0")
            assert [await here.take_request(NOW_MS) for _ in range(2)] == [True, False]
            assert [await there.take_request(NOW_MS) for _ in range(3)] == [True, True, False]
            assert (here.left(NOW_MS).requests, here.wait_s(NOW_MS)) == (0, 61)
            assert caplog.text.count("Redis is away") == 2
            monkeypatch.setattr(shared_rates, "AWAY_S", 0)
            assert await both[0].take_token("a", per_second=1, capacity=UNITS) is None


async def test_who_found_redis_away_asks_again_later(store, redis_url, monkeypatch, caplog):
    monkeypatch.setattr(shared_rates, "AWAY_S", 0)
    rates = SharedRates(redis_url)
    script = rates._bucket

    async def fails(**_):
        raise redis.ConnectionError("gone")

    rates._bucket = fails
    assert await rates.take_token("a", per_second=1, capacity=UNITS) is None
    rates._bucket = script
    assert (await rates.take_token("a", per_second=1, capacity=UNITS)).is_taken
    assert "Redis is back" in caplog.text
    await rates.close()


@contextlib.contextmanager
def closed_port():
    """A port that nobody listens on and nobody else gets."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextlib.asynccontextmanager
async def houses(url, **settings):
    """Two processes of one parent; `move_in` says which one is asked."""
    found = [open_house(Settings(open=True, redis_url=url, **settings), ask=lambda *_: None) for _ in range(2)]
    try:
        yield found
    finally:
        for one in found:
            await one.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_shared", [True, False])
async def test_ingest_and_cdc_count_at_both_processes_with_redis_only(is_shared, store, redis_url):
    limits = {"events_requests_per_minute": 2, "messages_per_second": 1, "burst_capacity": 2}
    async with houses(redis_url if is_shared else "", **limits) as both:
        token = await key_of("acme")
        asked = []
        for house in (both[0], both[1]) * 2:
            move_in(house)
            if len(asked) == 2:
                for key in store.scan_iter(PREFIX + "bucket:*"):
                    store.hset(key, mapping={"units": 0, "at": int(store.hget(key, "at")) + FAR_MS})
            heard = await ingest({"events": events(1)}, token=token)
            cdc = await ask("POST", "/cdc", {"events": []})
            asked.append((heard.status, cdc.status))
        assert asked == ([(200, 200)] * 2 + [(429, 429)] * 2 if is_shared else [(200, 200)] * 4)
        if is_shared:
            assert heard.headers["x-ratelimit-remaining-requests"] == "0"
            assert int(heard.headers["retry-after"]) >= 1
            assert cdc.json["reason"] == "rate_limited"
