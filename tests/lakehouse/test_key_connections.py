"""A key's own `connections_max`: at most so many sockets with it, and no child is locked out by its own dead ones."""

import asyncio
import contextlib
import json
from functools import partial

import pytest
from django.db import OperationalError
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.limits.doorman import open_doorman
from lakehouse.models import AccessKey, Parent
from lakehouse.parent import access
from rpc.messages import AckStatus
from tests.builders import NOW_MS, run, wire
from tests.lakehouse import test_limits_doorman as street
from tests.lakehouse.test_consumer import hello, home
from tests.lakehouse.test_ends import NOTHING, left_behind
from tests.lakehouse.test_handshake_refusals import Visitor, assert_too_many
from tests.lakehouse.test_hibernation import asleep, drowsy
from tests.lakehouse.test_intake import in_thread
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)

store = street.store


async def key(name="shops", **limits):
    return await in_thread(lambda: access.new_key(name, scopes=["ingest"], limits=limits, now_ms=NOW_MS))


def visitor(token, child=None, path="/ws", **options):
    named = [] if child is None else [(b"x-client-id", child.encode())]
    return Visitor(path, token=token, headers=named, **options)


async def inside(token, child=None, path="/ws"):
    found = visitor(token, child, path)
    assert (await found.knock())[0] == 101
    return found


async def status(token, child=None, path="/ws"):
    """What a handshake hears; who is let in leaves at once."""
    found = visitor(token, child, path)
    heard, _, _ = await found.knock()
    if heard == 101:
        await found.leave()
    return heard


async def is_told_to_come_back(old):
    assert await old.hear() == 1013
    await old.wait(5)


@contextlib.asynccontextmanager
async def closed_house(**settings):
    """It has nothing of anybody in the end."""
    async with home(open=False, **settings) as (opened, _):
        yield opened
        assert left_behind(opened) == NOTHING
        assert not opened.doorman.gate.by_key


async def test_the_connection_beyond_the_limit_of_its_key_hears_which_limit_of_which_key(caplog):
    row, token = await key(connections_max=2)
    async with closed_house() as opened:
        two = [await inside(token, child) for child in ("shop-1", "shop-2")]
        heard, headers, body = await visitor(token, "shop-3").knock()
        assert body.pop("message") == (
            f"the access key shops ({row.prefix}) has as many open connections as its limit connections_max allows (2)"
        )
        assert_too_many((heard, headers, body), "connection_limit")
        assert (
            "a handshake of child 'shop-3' at parent 'default' was refused (connection_limit): the access"
            in caplog.text
        )
        assert token not in caplog.text
        assert opened.doorman.tally.connections_rate_limited == 1
        await two[0].leave()
        assert await status(token, "shop-3") == 101
        await two[1].leave()


async def test_each_key_has_its_own_places_and_one_without_a_limit_has_any_number():
    (_, one), (_, other), (_, free) = [await key(connections_max=1), await key(connections_max=1), await key()]
    async with closed_house():
        found = [await inside(one, "a"), await inside(other, "b"), *[await inside(free, "c") for _ in range(3)]]
        assert [await status(token, "d") for token in (one, other, free)] == [429, 429, 101]
        for socket in found:
            await socket.leave()


async def test_a_child_whose_old_socket_does_not_know_that_it_is_dead_comes_in_again():
    _, token = await key(connections_max=1)
    async with closed_house() as opened:
        old = await inside(token, "shop-1")
        assert (await old.ask(wire(1, run(1, 1)))).status is AckStatus.OK
        for sequence in range(2, 12):
            new = await inside(token, "shop-1")
            assert (await new.ask(wire(sequence, run(sequence, sequence)))).status is AckStatus.OK
            await is_told_to_come_back(old)
            old = new
        assert opened.doorman.tally.connections_evicted == 10
        assert opened.doorman.tally.connections_rate_limited == 0
        await old.leave()


async def test_a_socket_that_died_before_it_said_anything_gives_its_place_too():
    _, token = await key(connections_max=1)
    async with closed_house():
        old = await inside(token, "shop-1")
        new = await inside(token, "shop-1")
        await is_told_to_come_back(old)
        await new.leave()


async def test_a_child_that_named_itself_later_gives_its_old_socket_for_the_new_one():
    _, token = await key(connections_max=1)
    async with closed_house():
        old = await inside(token)
        await old.ask(hello(name="shop-1"))
        assert await status(token, "shop-2") == 429
        new = await inside(token, "shop-1")
        await is_told_to_come_back(old)
        await new.leave()


async def test_a_sleeping_socket_holds_its_place_and_gives_it_to_its_own_child():
    _, token = await key(connections_max=1)
    async with closed_house() as opened:
        clock = drowsy(opened)
        old = await inside(token, "shop-1")
        await old.ask(hello(name="shop-1"))
        await asleep(opened, clock)
        assert await status(token, "shop-2") == 429
        new = await inside(token, "shop-1")
        await is_told_to_come_back(old)
        await new.leave()


@pytest.mark.parametrize(("child", "path"), [("shop-2", "/ws"), (None, "/ws"), ("shop-1", "/ws/eu-1")])
async def test_somebody_else_takes_no_childs_place(child, path):
    _, token = await key(connections_max=1)
    async with closed_house():
        first = await inside(token, "shop-1")
        assert [await status(token, child, path) for _ in range(3)] == [429] * 3
        assert (await first.ask(wire(1, run(1, 1)))).status is AckStatus.OK
        await first.leave()


async def test_a_limit_that_was_set_later_counts_those_who_are_here():
    row, token = await key()
    async with closed_house():
        two = [await inside(token, child) for child in ("shop-1", "shop-2")]
        await in_thread(lambda: AccessKey.objects.filter(pk=row.pk).update(limits={"connections_max": 2}))
        assert await status(token, "shop-3") == 429
        for socket in two:
            assert await socket.ask("ping") == "pong"
            await socket.leave()
        assert await status(token, "shop-3") == 101


async def test_a_connection_that_dies_frees_its_place():
    _, token = await key(connections_max=1)
    async with closed_house():
        first = await inside(token, "shop-1")
        first.future.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first.future
        assert await status(token, "shop-2") == 101


async def test_a_key_that_is_refused_for_something_else_holds_no_place():
    _, token = await key(connections_max=1)
    async with closed_house():
        assert await status(token, "a\x00b") == 400
        assert await status(token, "shop-1") == 101


async def test_an_open_house_counts_no_keys():
    _, token = await key(connections_max=1)
    async with home() as (opened, _):
        two = [await inside(token, child) for child in ("shop-1", "shop-2")]
        assert not opened.doorman.gate.by_key
        for socket in two:
            await socket.leave()


async def test_while_the_database_cannot_name_the_key_its_number_is_said(monkeypatch):
    def away(*_arguments, **_options):
        raise OperationalError("the database is away")

    row, token = await key(connections_max=1)
    async with closed_house():
        first = await inside(token, "shop-1")
        with monkeypatch.context() as patch:
            patch.setattr("lakehouse.parent.access.by_id", away)
            heard, _, body = await visitor(token, "shop-2").knock()
        assert heard == 429
        assert body["message"].startswith(f"the access key number {row.pk} has as many")
        await first.leave()


async def test_a_server_that_cannot_answer_with_http_refuses_all_the_same():
    _, token = await key(connections_max=1)
    async with closed_house():
        first = await inside(token, "shop-1")
        assert await visitor(token, "shop-2", can_answer=False).knock() == (None, {}, 1013)
        await first.leave()


async def test_it_is_the_same_on_a_real_socket():
    _, token = await key(connections_max=1)
    async with serving(open=False) as server:
        dial = partial(connect, server.url, compression=None, ping_interval=None)
        bearer = {"Authorization": f"Bearer {token}"}
        async with dial(additional_headers=bearer | {"X-Client-ID": "shop-1"}) as old:
            with pytest.raises(InvalidStatus) as refused:
                await dial(additional_headers=bearer | {"X-Client-ID": "shop-2"})
            response = refused.value.response
            assert (response.status_code, response.headers["Retry-After"]) == (429, "1")
            assert json.loads(response.body)["reason"] == "connection_limit"
            async with dial(additional_headers=bearer | {"X-Client-ID": "shop-1"}) as new:
                await new.send("ping")
                assert await new.recv() == "pong"
                await old.wait_closed()
                assert old.close_code == 1013


class Elsewhere:
    """Another process of the house, as far as its doorman goes."""

    def __init__(self, redis_url):
        self.doorman = open_doorman(Settings(redis_url=redis_url), now_ms=now_ms)
        self.replaced = []

    async def show(self, row, child=None):
        """Knock with this key; whether that was let in."""
        scope = {"client": ("127.0.0.1", 4711), "headers": []}
        guest = await self.doorman.enter(scope, evict=lambda: self.replaced.append(child))
        source = None if child is None else f"{await in_thread(lambda: Parent.objects.get().pk)}/{child}"
        return await self.doorman.show_key(guest, row.pk, connections_max=1, child=source) is None


async def test_what_a_key_opened_at_another_process_counts_and_the_newest_of_a_child_wins_there_too(store, redis_url):
    row, token = await key(connections_max=1)
    elsewhere = Elsewhere(redis_url)
    try:
        async with closed_house(redis_url=redis_url):
            old = await inside(token, "shop-1")
            assert not await elsewhere.show(row, "shop-2")
            assert await elsewhere.show(row, "shop-1")
            assert await status(token, "shop-2") == 429  # by which this process hears that it was replaced
            await is_told_to_come_back(old)
            assert await status(token, "shop-1") == 101
            await elsewhere.show(row)
            assert elsewhere.replaced == ["shop-1"]
    finally:
        await elsewhere.doorman.stop()
