"""How many connections may have a key, counted by one process alone and by several together."""

import asyncio

import pytest

from lakehouse.clock import now_ms
from lakehouse.limits import colleagues, shared
from lakehouse.limits.gate import Guest, Reason
from tests.lakehouse import test_limits_doorman as street
from tests.lakehouse.test_limits_doorman import cable, processes, until

store, url = street.store, street.url
ADDRESS = "127.0.0.1"
KEY, OTHER_KEY = 7, 8


async def show(process, child="1/shop", *, key=KEY, most=2):
    """The guest, or the reason it is sent away."""
    guest = await process.enter(ADDRESS)
    refusal = await process.doorman.show_key(guest, key, connections_max=most, child=child)
    if refusal is None:
        return guest
    assert guest.number not in process.doorman.gate.guests
    return refusal.reason


async def until_shown(process, child, **options):
    async with asyncio.timeout(20):
        while not isinstance(guest := await show(process, child, **options), Guest):
            await asyncio.sleep(0.02)
    return guest


async def talk(*found):
    """What was told before is known when this is answered."""
    for process in found:
        process.doorman.leave(await process.enter(ADDRESS))


def held_in(store):
    return {key for kind in ("key", "holder") for key in store.keys(f"{shared.PREFIX}{kind}:*")}


async def test_a_key_opens_so_many_connections_and_the_next_when_one_left(url):
    async with processes(url) as [process]:
        first, second = await show(process, "1/a"), await show(process, "1/b")
        assert await show(process, "1/c") is Reason.CONNECTION_LIMIT
        assert isinstance(await show(process, "1/c", key=OTHER_KEY), Guest)
        process.doorman.leave(first)
        third = await show(process, "1/c")
        assert await show(process, "1/a") is Reason.CONNECTION_LIMIT
        assert process.evicted == []
        assert {second.number, third.number} < process.doorman.gate.guests.keys()
        assert process.doorman.tally.connections_rate_limited == 2


async def test_a_child_whose_old_socket_looks_alive_is_never_locked_out(url):
    async with processes(url) as [process]:
        guests = [await show(process, most=1) for _ in range(300)]
        await talk(process)
        await until(lambda: len(process.evicted) == 299)
        assert process.evicted == guests[:-1]
        assert list(process.doorman.gate.guests.values()) == guests[-1:]


async def test_a_child_that_was_named_after_the_handshake_is_known_as_well(url):
    async with processes(url) as [process]:
        old = await show(process, None, most=1)
        process.doorman.claim(old, "1/shop")
        assert await show(process, "1/bank", most=1) is Reason.CONNECTION_LIMIT
        assert isinstance(await show(process, "1/shop", most=1), Guest)
        await talk(process)
        assert process.evicted == [old]


async def test_a_connection_is_the_child_it_became_and_not_the_one_it_said_to_be(url):
    async with processes(url) as [process]:
        old = await show(process, "1/bank", most=1)
        process.doorman.claim(old, "1/shop")
        assert await show(process, "1/bank", most=1) is Reason.CONNECTION_LIMIT
        assert isinstance(await show(process, "1/shop", most=1), Guest)


async def test_another_child_takes_nobodys_place(url):
    async with processes(url) as [process]:
        old = await show(process, "1/shop", most=1)
        for child in ("1/bank", "2/shop", None):
            assert await show(process, child, most=1) is Reason.CONNECTION_LIMIT
        await talk(process)
        assert process.evicted == []
        assert list(process.doorman.gate.guests.values()) == [old]


async def test_a_child_gives_no_more_of_its_connections_than_are_in_the_way(url):
    async with processes(url) as [process]:
        guests = [await show(process, child, most=4) for child in ("1/shop", "1/shop", "1/bank", "1/shop")]
        assert isinstance(await show(process, "1/shop", most=4), Guest)
        assert isinstance(await show(process, "1/shop", most=3), Guest)
        await talk(process)
        await until(lambda: len(process.evicted) == 3)
        assert process.evicted == [guests[0], guests[1], guests[3]]


async def test_a_limit_that_was_lowered_closes_nothing_and_lets_nobody_in_until_there_is_room(url):
    async with processes(url) as [process]:
        guests = [await show(process, f"1/{name}", most=None) for name in "abc"]
        assert await show(process, "1/a", most=2) is Reason.CONNECTION_LIMIT
        assert not (url and process.colleagues.is_away)
        process.doorman.leave(guests[1])
        assert isinstance(await show(process, "1/a", most=2), Guest)
        await talk(process)
        assert process.evicted == guests[:1]
        assert await show(process, "1/b", most=2) is Reason.CONNECTION_LIMIT


async def test_a_key_is_shown_once(url):
    async with processes(url) as [process]:
        guest = await show(process)
        await process.doorman.show_key(guest, OTHER_KEY, connections_max=None, child="1/bank")
        assert (guest.key_id, guest.child, dict(process.doorman.gate.by_key)) == (KEY, "1/shop", {KEY: 1})


async def test_keys_that_were_shown_a_thousand_times_leave_nothing_behind(url, request):
    async with processes(url) as [process]:
        for number in range(1000):
            guest = await show(
                process, "1/shop" if number % 2 else None, key=number % 7, most=(None, 1)[number % 3 > 0]
            )
            if number % 5:
                process.doorman.claim(guest, "1/shop")
            process.doorman.leave(guest)
        assert not process.doorman.gate.by_key
        if url:
            await until(lambda: process.colleagues._task.done())
            assert held_in(request.getfixturevalue("store")) == set()


async def test_a_storm_with_one_key_lets_in_exactly_so_many(url):
    async with processes(url) as [process]:
        heard = await asyncio.gather(*(show(process, f"1/{number}", most=20) for number in range(300)))
        assert sum(isinstance(answer, Guest) for answer in heard) == 20
        assert process.doorman.gate.by_key == {KEY: 20}


async def test_a_child_that_comes_many_times_at_once_has_one_connection_in_the_end(url):
    """Who is replaced while he waits for an answer hears a refusal, and is not cut off without a word."""
    async with processes(url) as [process]:
        heard = await asyncio.gather(*(show(process, most=1) for _ in range(100)))
        await talk(process)
        [left] = process.doorman.gate.guests.values()
        assert left in heard
        assert {answer for answer in heard if not isinstance(answer, Guest)} <= {Reason.CONNECTION_LIMIT}
        admitted = [answer for answer in heard if isinstance(answer, Guest)]
        assert sorted(guest.number for guest in [*process.evicted, left]) == sorted(g.number for g in admitted)


async def test_a_handshake_given_up_while_its_key_is_counted_holds_no_place(url):
    async with processes(url) as [process]:
        for _ in range(50):
            guest = await process.enter(ADDRESS)
            asked = process.doorman.show_key(guest, KEY, connections_max=1, child="1/a")
            knock = asyncio.create_task(asked)
            await asyncio.sleep(0)
            knock.cancel()
            await asyncio.wait([knock])
            process.doorman.leave(guest)
        assert isinstance(await show(process, "1/b", most=1), Guest)


async def test_two_processes_share_what_a_key_may_open(store, redis_url):
    async with processes(redis_url, 2) as [one, two]:
        guests = [
            await show(process, f"1/{name}", most=4) for name, process in zip("abcd", (one, two) * 2, strict=True)
        ]
        for process in (one, two):
            assert await show(process, "1/e", most=4) is Reason.CONNECTION_LIMIT
        one.doorman.leave(guests[0])
        await until_shown(two, "1/e", most=4)
        assert await show(one, "1/f", most=4) is Reason.CONNECTION_LIMIT
        assert one.evicted + two.evicted == []


async def test_a_childs_old_connection_makes_room_in_the_process_that_has_it(store, redis_url):
    async with processes(redis_url, 2, connection_lease_ms=300) as [one, two]:
        bank, old = await show(one, "1/bank"), await show(one, "1/shop")
        new = await show(two, "1/shop")
        assert isinstance(new, Guest)
        await until(lambda: one.evicted)
        assert (one.evicted, two.evicted) == ([old], [])
        assert list(one.doorman.gate.guests.values()) == [bank]
        assert await show(one, "1/third") is Reason.CONNECTION_LIMIT


async def test_the_newest_stays_even_if_the_clock_of_its_process_is_slow(store, redis_url):
    async with processes(redis_url, 2) as [one, slow]:
        old = await show(one, most=1)
        slow.doorman._now_ms = lambda: now_ms() - 3_600_000
        newest = await show(slow, most=1)
        await talk(one, slow)
        assert (one.evicted, slow.evicted) == ([old], [])
        assert list(slow.doorman.gate.guests.values()) == [newest]


async def test_what_a_key_without_a_limit_opened_elsewhere_counts_when_it_gets_one(store, redis_url):
    async with processes(redis_url, 2) as [one, two]:
        old = [await show(one, f"1/{name}", most=None) for name in "ab"]
        await talk(one)
        assert await show(two, "1/c", most=2) is Reason.CONNECTION_LIMIT
        one.doorman.leave(old[0])
        await until_shown(two, "1/c", most=2)


async def test_a_process_that_stops_gives_the_places_of_its_keys_back(store, redis_url):
    async with processes(redis_url, 2) as [one, two]:
        await show(one, "1/a", most=1)
        assert await show(two, "1/b", most=1) is Reason.CONNECTION_LIMIT
        await one.doorman.stop()
        assert isinstance(await show(two, "1/b", most=1), Guest)


async def test_a_process_whose_lease_ran_out_holds_no_place_of_a_key(store, redis_url):
    async with processes(redis_url, 2) as [dead, two]:
        await show(dead, "1/a", most=1)
        store.zrem(f"{shared.PREFIX}processes", dead.colleagues._me)
        assert isinstance(await show(two, "1/b", most=1), Guest)


@pytest.mark.parametrize("what", ["emptied", "forgot the process"])
async def test_a_redis_that_lost_its_memory_hears_again_who_has_which_key(store, redis_url, monkeypatch, what):
    monkeypatch.setattr(colleagues, "OPS_MAX", 3)
    async with processes(redis_url, 2) as [one, two]:
        guests = [await show(one, f"1/{number}", most=9) for number in range(7)]
        one.doorman.claim(guests[0], "1/other")
        store.flushall() if what == "emptied" else store.delete(f"{shared.PREFIX}processes")
        await talk(one)
        assert isinstance(await show(two, "1/x", most=8), Guest)
        assert await show(two, "1/y", most=8) is Reason.CONNECTION_LIMIT
        assert isinstance(await show(two, "1/other", most=8), Guest)
        await talk(one)
        assert one.evicted == guests[:1]


async def test_who_asks_while_redis_loses_its_memory_is_counted_once(store, redis_url):
    async with processes(redis_url, 2) as [one, two]:
        await show(one, "1/a", most=2)
        guest = await one.enter(ADDRESS)
        asked = asyncio.create_task(one.doorman.show_key(guest, KEY, connections_max=2, child="1/b"))
        await asyncio.sleep(0)
        store.flushall()
        assert await asked is None
        assert isinstance(await show(two, "1/c", most=3), Guest)
        assert await show(two, "1/d", most=3) is Reason.CONNECTION_LIMIT


async def given_up_while_asking(process, ip, meanwhile=lambda: None):
    guest = await process.enter(ip)
    knock = asyncio.create_task(process.doorman.show_key(guest, KEY, connections_max=1, child="1/a"))
    await asyncio.sleep(0)
    meanwhile()
    knock.cancel()
    await asyncio.wait([knock])
    process.doorman.leave(guest)


async def test_who_gave_up_while_redis_lost_its_memory_holds_no_place(store, redis_url):
    async with processes(redis_url, 2) as [one, two]:
        await given_up_while_asking(one, ADDRESS, meanwhile=store.flushall)
        await talk(one)
        assert isinstance(await show(two, "1/b", most=1), Guest)


async def test_who_gave_up_while_his_key_was_counted_leaves_his_address_once(store, redis_url):
    async with processes(redis_url, 2, max_connections_per_ip=2) as [one, two]:
        await one.enter("203.0.113.7")
        await given_up_while_asking(one, "203.0.113.7")
        await talk(one)
        assert [await two.reason("203.0.113.7") for _ in range(2)] == [None, Reason.IP_LIMIT]


async def test_a_place_is_free_before_the_process_that_had_it_knows(store, redis_url):
    async with processes(redis_url, 2) as [one, two]:
        await show(one, "1/shop", most=1)
        two.doorman.leave(await show(two, "1/shop", most=1))
        assert isinstance(await show(two, "1/bank", most=1), Guest)
        assert one.evicted == []
        await talk(one)
        assert len(one.evicted) == 1
        assert await show(one, "1/third", most=1) is Reason.CONNECTION_LIMIT


async def test_while_redis_is_away_a_process_counts_for_itself(store, redis_url):
    async with cable(redis_url) as line, processes(line.url) as [process]:
        old = await show(process, "1/a")
        await line.cut()
        assert isinstance(await show(process, "1/b"), Guest)
        assert await show(process, "1/c") is Reason.CONNECTION_LIMIT
        assert isinstance(await show(process, "1/a"), Guest)
        assert process.evicted == [old]


async def test_when_redis_is_back_it_hears_who_came_with_which_key(store, redis_url):
    async with cable(redis_url) as line, processes(line.url, 2, connection_lease_ms=300) as [one, two]:
        await show(one, "1/a")
        await line.cut()
        await show(one, "1/b")
        await line.mend()
        await until(lambda: not one.colleagues.is_away)
        await talk(two)
        await until(lambda: not two.colleagues.is_away)
        assert await show(two, "1/c") is Reason.CONNECTION_LIMIT
