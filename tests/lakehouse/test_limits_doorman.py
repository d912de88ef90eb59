"""One exam for both ways of counting: what a process alone promises, it promises among colleagues too."""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import redis

from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.limits import colleagues, shared, shared_rates
from lakehouse.limits.doorman import open_doorman
from lakehouse.limits.gate import Guest, Lane, Reason

MANY = {"connections_per_second": 1_000_000, "connection_lease_ms": 60_000}


@pytest.fixture
def store(redis_url, monkeypatch):
    """An empty Redis, for which a slow machine waits."""
    for room in (shared, shared_rates):
        monkeypatch.setattr(room, "TIMEOUT_S", 60)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture(params=["alone", "with_redis"])
def url(request):
    if request.param == "alone":
        return ""
    request.getfixturevalue("store")
    return request.getfixturevalue("redis_url")


@contextlib.asynccontextmanager
async def processes(url, number=1, **settings):
    """So many processes of one house."""
    found = [Process(url, **settings) for _ in range(number)]
    try:
        yield found
    finally:
        for process in found:
            await process.doorman.stop()


class Process:
    def __init__(self, url, **settings):
        self.doorman = open_doorman(Settings(**MANY | {"redis_url": url} | settings), now_ms=now_ms)
        self.evicted = []

    async def enter(self, ip="203.0.113.7", forwarded=(), lane=Lane.CONNECTIONS):
        headers = [(b"x-forwarded-for", text.encode()) for text in forwarded]
        place = []
        guest = await self.doorman.enter(
            {"client": ip and (ip, 4711), "headers": headers}, evict=lambda: self.evicted.append(place[0]), lane=lane
        )
        place.append(guest)
        return guest

    async def child(self, source="1/shop", ip="127.0.0.1"):
        guest = await self.enter(ip)
        assert isinstance(guest, Guest), guest
        self.doorman.claim(guest, source)
        return guest

    async def reason(self, ip="203.0.113.7", **said):
        return getattr(await self.enter(ip, **said), "reason", None)

    @property
    def colleagues(self):
        return self.doorman._colleagues


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def until_let_in(process, ip="203.0.113.7"):
    async with asyncio.timeout(20):
        while not isinstance(guest := await process.enter(ip), Guest):
            await asyncio.sleep(0.02)
    return guest


def counted(store):
    """What Redis holds of connections and children."""
    kinds = ("ip", "subnet", "source")
    return {key.removeprefix(shared.PREFIX) for kind in kinds for key in store.keys(f"{shared.PREFIX}{kind}:*")}


async def test_the_eleventh_connection_of_an_address_is_refused_until_one_leaves(url):
    async with processes(url) as [process]:
        guests = [await process.enter() for _ in range(10)]
        refusal = await process.enter()
        assert (refusal.reason, refusal.client_ip, refusal.retry_after_s) == (Reason.IP_LIMIT, "203.0.113.xxx", 1)
        process.doorman.leave(guests[3])
        assert await process.reason() is None
        assert await process.reason() is Reason.IP_LIMIT


async def test_only_what_a_trusted_proxy_says_is_counted(url):
    async with processes(url, trusted_proxies="10.0.0.0/8", max_connections_per_ip=1) as [process]:
        assert await process.reason("10.0.0.1", forwarded=["198.51.100.1", "203.0.113.7"]) is None
        assert await process.reason("10.0.0.1", forwarded=["198.51.100.2, 203.0.113.7"]) is Reason.IP_LIMIT
        assert await process.reason("203.0.113.7", forwarded=["198.51.100.3"]) is Reason.IP_LIMIT
        assert await process.reason("10.0.0.1", forwarded=["203.0.113.8"]) is None


async def test_the_whitelist_exempts_from_the_counts_by_address_only(url):
    async with processes(url, connections_per_second=30) as [process]:
        heard = [await process.reason("192.168.0.1") for _ in range(25)]
        assert heard == [None] * 25
        heard = [await process.reason("192.168.0.1") for _ in range(2000)]
        assert Reason.RATE_LIMITED in heard
        assert Reason.IP_LIMIT not in heard


async def test_wrong_keys_of_an_address_are_looked_up_so_often_only(url):
    async with processes(url, key_failures_per_minute=1) as [process]:
        guest = await process.enter()
        process.doorman.key_failed(guest)
        process.doorman.leave(guest)
        refusal = await process.enter()
        assert (refusal.reason, 50 < refusal.retry_after_s <= 60) == (Reason.RATE_LIMITED, True)
        assert await process.reason("203.0.113.8") is None


async def test_a_stranger_without_a_key_at_full_speed_keeps_no_child_out(url):
    async with processes(url, connections_per_second=100) as [process]:
        heard = []
        for _ in range(500):
            guest = await process.enter()
            heard.append(isinstance(guest, Guest))
            if heard[-1]:
                process.doorman.key_failed(guest)
                process.doorman.leave(guest)
        assert heard[:11] == [True] * 10 + [False]
        assert [await process.reason("198.51.100.1") for _ in range(5)] == [None] * 5


async def test_a_household_has_its_share_of_the_connections_of_a_second_and_of_the_requests(url):
    settings = {"connections_per_second": 1_000_000, "household_share": 1e-6, "requests_per_second": 2_000_000}
    async with processes(url, **settings) as [process]:
        for lane, share in ((Lane.CONNECTIONS, 1), (Lane.REQUESTS, 2)):
            begun_ms, heard = now_ms(), []
            for _ in range(50):
                guest = await process.enter(lane=lane)
                heard.append(isinstance(guest, Guest))
                if heard[-1]:
                    process.doorman.leave(guest)
            assert heard[:share] == [True] * share
            assert heard.count(True) <= share + share * (now_ms() - begun_ms + 2) / 1000
            assert isinstance(await process.enter("198.51.100.1", lane=lane), Guest)


async def test_two_processes_share_what_a_household_may_have_of_a_second(store, redis_url):
    async with processes(redis_url, 2, connections_per_second=1_000_000, household_share=4e-6) as [one, two]:
        begun_ms, heard = now_ms(), []
        for _ in range(20):
            for process in (one, two):
                guest = await process.enter()
                heard.append(isinstance(guest, Guest))
                if heard[-1]:
                    process.doorman.leave(guest)
        assert heard[:4] == [True] * 4
        assert heard.count(True) <= 4 + 4 * (now_ms() - begun_ms + 2) / 1000
        assert isinstance(await one.enter("198.51.100.1"), Guest)


@pytest.mark.parametrize(("peer", "shown"), [("10.0.0.1", "10.0.0.1"), (None, "unix")])
async def test_a_proxy_nobody_told_us_of_is_named_in_the_log_once(caplog, peer, shown):
    async with processes("") as [process]:
        await process.enter("203.0.113.7", forwarded=["198.51.100.1"])
        await process.enter(peer)
        assert caplog.messages == []
        for _ in range(2):
            await process.enter(peer, forwarded=["198.51.100.1"])
        [said] = caplog.messages
        assert said.endswith(f"if it is your proxy, set EVODB_TRUSTED_PROXIES={shown}")


async def test_a_proxy_we_were_told_of_is_no_reason_to_warn(caplog):
    async with processes("", trusted_proxies="10.0.0.0/8,unix") as [process]:
        await process.enter("10.0.0.1", forwarded=["198.51.100.1"])
        await process.enter(None, forwarded=["198.51.100.1"])
        assert caplog.messages == []


async def test_a_child_that_reconnects_a_thousand_times_leaves_nothing_behind(url, request):
    async with processes(url) as [process]:
        for _ in range(1000):
            process.doorman.leave(await process.child(ip="203.0.113.7"))
        assert process.evicted == []
        assert not process.doorman.gate.guests
        if url:
            await until(lambda: process.colleagues._task.done())
            assert counted(request.getfixturevalue("store")) == set()


async def test_a_child_whose_thousand_sockets_do_not_know_that_they_are_dead_is_never_locked_out(url):
    async with processes(url) as [process]:
        guests = [await process.child(ip="203.0.113.7") for _ in range(1000)]
        await until(lambda: len(process.evicted) == 995)
        assert process.evicted == guests[:995]
        assert list(process.doorman.gate.guests.values()) == guests[995:]
        assert process.doorman.tally.connections_evicted == 995


async def test_a_handshake_given_up_half_way_is_counted_nowhere(url, request):
    async with processes(url, max_connections_per_ip=1) as [process]:
        for _ in range(50):
            knock = asyncio.create_task(process.enter())
            await asyncio.sleep(0)
            if not knock.cancel():
                process.doorman.leave(knock.result())
            await asyncio.wait([knock])
        await until_let_in(process)


async def test_a_storm_of_handshakes_is_answered_one_by_one(url):
    async with processes(url) as [process]:
        heard = await asyncio.gather(*(process.reason(f"198.51.{number % 100}.1") for number in range(1000)))
        assert heard == [None] * 1000
        heard = await asyncio.gather(*(process.reason(f"198.51.{number % 100}.1") for number in range(1000)))
        assert heard == [Reason.IP_LIMIT] * 1000


async def test_two_processes_share_what_an_address_may_open(store, redis_url):
    async with processes(redis_url, 2) as [one, two]:
        guests = [await process.enter() for process in (one, two) * 5]
        assert [await one.reason(), await two.reason()] == [Reason.IP_LIMIT, Reason.IP_LIMIT]
        one.doorman.leave(guests[0])
        await until_let_in(two)
        assert await one.reason() is Reason.IP_LIMIT


async def test_two_processes_share_what_a_network_may_open(store, redis_url):
    async with processes(redis_url, 2, subnet_rate_limit_threshold=4) as [one, two]:
        heard = [await process.reason(f"203.0.113.{host}") for host in range(3) for process in (one, two)]
        assert heard == [None] * 4 + [Reason.IP_LIMIT] * 2


async def test_two_processes_share_the_connections_of_a_second(store, redis_url):
    async with processes(redis_url, 2, connections_per_second=20) as [one, two]:
        begun_ms = now_ms()
        heard = [await process.reason("127.0.0.1") for _ in range(1000) for process in (one, two)]
        passed_ms = now_ms() - begun_ms + 2
        assert heard[:20] == [None] * 20
        assert heard.count(None) <= 20 + 20 * passed_ms / 1000


async def test_two_processes_share_what_was_learned_about_wrong_keys(store, redis_url):
    async with processes(redis_url, 2, key_failures_per_minute=2) as [one, two]:
        for process in (one, two):
            guest = await process.enter()
            process.doorman.key_failed(guest)
            process.doorman.leave(guest)
        await two.enter("127.0.0.1")
        assert [await one.reason(), await two.reason()] == [Reason.RATE_LIMITED, Reason.RATE_LIMITED]


async def test_a_childs_oldest_connection_is_closed_in_the_process_that_has_it(store, redis_url):
    async with processes(redis_url, 2, connection_lease_ms=300) as [one, two]:
        oldest = await one.child()
        for _ in range(5):
            await two.child()
        await until(lambda: one.evicted)
        assert (one.evicted, two.evicted) == ([oldest], [])
        assert not one.doorman.gate.guests


async def test_the_new_connection_stays_even_if_the_clock_of_its_process_is_slow(store, redis_url):
    async with processes(redis_url, 2) as [one, slow]:
        guests = [await one.child() for _ in range(5)]
        slow.doorman._now_ms = lambda: now_ms() - 3_600_000
        newest = await slow.child()
        await slow.enter("127.0.0.1")  # what was told before is known by now
        await one.enter("127.0.0.1")
        assert one.evicted == guests[:1]
        assert newest.number in slow.doorman.gate.guests


KILLED = """
import asyncio, sys
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.limits.doorman import open_doorman

async def main():
    doorman = open_doorman(Settings(redis_url=sys.argv[1], connection_lease_ms=int(sys.argv[2])), now_ms=now_ms)
    for number in range(10):
        guest = await doorman.enter({"client": ("203.0.113.7", 1), "headers": []}, evict=lambda: None)
        doorman.claim(guest, f"1/shop-{number % 2}")
    print("full", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def killed(redis_url, store):
    """A process with ten connections of one address and two children, with a lease of half a second."""
    command = [sys.executable, "-c", KILLED, redis_url, "500"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "."}) as process:
        try:
            assert process.stdout.readline() == b"full\n"
            yield process
        finally:
            process.kill()


async def test_a_process_that_is_killed_does_not_lock_out_its_children(killed, store, redis_url):
    [(its_name, ends_ms)] = store.zrange(f"{shared.PREFIX}processes", 0, -1, withscores=True)
    async with processes(redis_url, connection_lease_ms=500) as [survivor]:
        # It renews its lease while it lives.
        await until(lambda: (store.zscore(f"{shared.PREFIX}processes", its_name) or 0) > ends_ms + 1000)
        assert await survivor.reason() is Reason.IP_LIMIT
        killed.kill()
        for _ in range(5):
            survivor.doorman.claim(await until_let_in(survivor), "1/shop-0")
        await survivor.enter("127.0.0.1")
        assert survivor.evicted == []


async def test_a_process_that_stops_gives_its_places_back_at_once(store, redis_url):
    async with processes(redis_url, 2) as [one, two]:
        for _ in range(10):
            await one.enter()
        assert await two.reason() is Reason.IP_LIMIT
        await one.doorman.stop()
        assert await two.reason() is None


async def test_who_leaves_after_the_stop_disturbs_nobody(store, redis_url):
    async with processes(redis_url) as [process]:
        guest = await process.enter()
        await process.doorman.stop()
        process.doorman.leave(guest)
        assert not process.doorman.gate.guests


async def test_an_emptied_redis_is_told_again_who_is_here(store, redis_url, monkeypatch):
    monkeypatch.setattr(colleagues, "OPS_MAX", 3)
    async with processes(redis_url, 2) as [one, two]:
        for _ in range(8):
            await one.enter()
        store.flushall()
        await one.enter("127.0.0.1")
        assert [await two.reason() for _ in range(3)] == [None, None, Reason.IP_LIMIT]


async def test_a_lease_that_ran_out_is_taken_anew_with_everybody_who_is_here(store, redis_url):
    async with processes(redis_url, 2) as [one, two]:
        guests = [await one.enter() for _ in range(8)]
        store.delete(f"{shared.PREFIX}processes")
        one.doorman.leave(guests[0])
        await one.enter("127.0.0.1")
        assert [await two.reason() for _ in range(4)] == [None, None, None, Reason.IP_LIMIT]


async def test_a_process_without_children_asks_for_nothing_and_tells_nothing(store, redis_url):
    async with processes(redis_url, connection_lease_ms=100) as [process]:
        process.doorman.leave(await process.child())
        await until(lambda: process.colleagues._task.done())
        assert counted(store) == set()


class Cable:
    """A way to Redis that can be cut, and silenced, and mended."""

    def __init__(self, redis_url):
        self.target = urlsplit(redis_url)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.server, self.pipes, self.is_silent = None, set(), False

    async def mend(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def cut(self):
        self.server.close()
        for pipe in self.pipes:
            pipe.cancel()
        await asyncio.gather(*self.pipes, return_exceptions=True)

    async def _serve(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection(self.target.hostname, self.target.port)
        ways = [asyncio.create_task(self._copy(*way)) for way in ((reader, far_writer), (far_reader, writer))]
        self.pipes.update(ways)
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, far_writer):
            end.close()

    async def _copy(self, reader, writer):
        while data := await reader.read(65_536):
            if not self.is_silent:
                writer.write(data)
        writer.close()


@contextlib.asynccontextmanager
async def cable(redis_url):
    found = Cable(redis_url)
    await found.mend()
    try:
        yield found
    finally:
        await found.cut()


async def test_when_redis_goes_away_the_counts_of_the_process_decide_and_it_is_said_once(store, redis_url, caplog):
    async with cable(redis_url) as line, processes(line.url) as [process]:
        guests = [await process.enter() for _ in range(5)]
        await line.cut()
        with caplog.at_level(logging.WARNING, logger=colleagues.__name__):
            assert [await process.reason() for _ in range(6)] == [None] * 5 + [Reason.IP_LIMIT]
            process.doorman.leave(guests[0])
            assert await process.reason() is None
        [said] = caplog.messages
        assert said.startswith("Redis is away, limits hold per process until it is back: ConnectionError")


async def test_when_redis_was_never_there_children_come_in_all_the_same(caplog):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with processes(f"redis://127.0.0.1:{port}/0") as [process]:
        assert [await process.reason() for _ in range(11)] == [None] * 10 + [Reason.IP_LIMIT]


async def test_a_redis_that_does_not_answer_holds_nobody_up_twice(store, redis_url, monkeypatch):
    monkeypatch.setattr(shared, "TIMEOUT_S", 0.05)
    async with cable(redis_url) as line, processes(line.url) as [process]:
        line.is_silent = True
        assert await process.reason() is None
        assert process.colleagues.is_away
        monkeypatch.setattr(shared, "TIMEOUT_S", 3600)
        async with asyncio.timeout(20):
            assert await process.reason() is None


async def test_when_redis_is_back_it_hears_of_everybody_who_came_and_left_meanwhile(store, redis_url, caplog):
    async with cable(redis_url) as line, processes(line.url, 2, connection_lease_ms=300) as [one, two]:
        guests = [await one.enter() for _ in range(5)]
        await line.cut()
        guests += [await one.enter() for _ in range(4)]
        for guest in guests[:3]:
            one.doorman.leave(guest)
        await line.mend()
        await until(lambda: not one.colleagues.is_away)
        await until(lambda: not two.colleagues.is_away)
        assert [await two.reason() for _ in range(5)] == [None] * 4 + [Reason.IP_LIMIT]
        assert caplog.messages.count("Redis is back: limits hold for all processes together again") == 1


async def test_while_redis_is_away_a_child_still_replaces_its_oldest_connection(store, redis_url):
    async with cable(redis_url) as line, processes(line.url) as [process]:
        guests = [await process.child() for _ in range(5)]
        await line.cut()
        guests += [await process.child() for _ in range(2)]
        await until(lambda: process.evicted == guests[:2])


async def test_what_was_told_while_redis_went_away_is_still_obeyed_here(store, redis_url):
    async with cable(redis_url) as line, processes(line.url) as [process]:
        guests = [await process.enter("127.0.0.1") for _ in range(6)]
        await line.cut()
        for guest in guests:
            process.doorman.claim(guest, "1/shop")
        await until(lambda: process.evicted == guests[:1])


async def test_a_mishap_while_telling_is_logged_and_everything_is_told_anew(store, redis_url, monkeypatch, caplog):
    async with processes(redis_url, 2) as [one, two]:
        guests = [await one.enter() for _ in range(9)]
        with monkeypatch.context() as broken:
            broken.setattr(guests[0], "evict", None)
            for guest in [*guests[:3], *[await one.enter("127.0.0.1") for _ in range(3)]]:
                one.doorman.claim(guest, "1/shop")
            assert await one.reason() is None
            await until(lambda: "TypeError" in caplog.text)
        assert [await two.reason(), await two.reason()] == [None, Reason.IP_LIMIT]
