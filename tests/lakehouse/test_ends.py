"""However a connection ends, its child hears why, and nothing of it is left in the house."""

import asyncio
import contextlib
import gc
import logging
import socket
import threading

import pytest
from django.db import OperationalError
from websockets.asyncio.client import connect

from lakehouse.models import AccessKey, Batch, BatchState, Parent
from lakehouse.models import Child as ChildRow
from lakehouse.parent import access
from lakehouse.parent.admissions import KNOWN_MS
from rpc.messages import AckStatus, DisconnectMessage, FlushRequestMessage, NackReason, PersistedRequestMessage
from rpc.protocol import encode_message
from rpc.session import ParentSession
from tests.acceptance.raw_socket import RawSocket, framed
from tests.builders import NOW_MS, run, wire
from tests.lakehouse.test_consumer import Socket, hello, home
from tests.lakehouse.test_hibernation import asleep, drowsy
from tests.lakehouse.test_intake import in_thread
from tests.lakehouse.test_nacks import Child, batch
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)

GOODBYE = encode_message(DisconnectMessage(timestamp=1))
FLUSH = encode_message(FlushRequestMessage(timestamp=1, source_do_id="shop-1", correlation_id="f-1"))


def persisted_request(sequence):
    return encode_message(PersistedRequestMessage(timestamp=1, source_do_id="shop-1", sequence_number=sequence))


def left_behind(opened):
    """What a house counts of its connections."""
    gate = opened.doorman.gate
    return {
        "guests": len(gate.guests),
        "addresses": dict(gate.by_ip),
        "networks": dict(gate.by_subnet),
        "sources": dict(gate.by_source),
        "keys": dict(gate.by_key),
        "connections": dict(opened.connections),
        "present": dict(opened.presence._by_child),
        "sleeping": opened.presence.sleeping,
        "awake": opened.dormitory.awake,
        "asleep": opened.dormitory.asleep,
        "watched": opened.persisted.waiting,
        "flushing": opened.flush_watch.waiting,
    }


NOTHING = {name: {} for name in ("addresses", "networks", "sources", "keys", "connections", "present")}
NOTHING |= dict.fromkeys(("guests", "sleeping", "awake", "asleep", "watched", "flushing"), 0)


async def ended(child):
    """Its task is over, cancelled or not."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(child.future), 5)


@contextlib.asynccontextmanager
async def writer_busy(opened):
    """The thread that talks to the database has something else to do."""
    held, release = threading.Event(), threading.Event()
    opened.intake.post(lambda: (held.set(), release.wait()))
    await asyncio.to_thread(held.wait)
    try:
        yield
    finally:
        release.set()


async def parked(opened, count=1):
    """As many things as that wait for the database."""
    async with asyncio.timeout(5):
        while len(opened.intake._waiting) < count:
            await asyncio.sleep(0)


class Ends:
    """Every way for a connection to end. Each leaves the house as it found it."""

    def __init__(self, opened, monkeypatch):
        self.opened = opened
        self.monkeypatch = monkeypatch
        self.clock = drowsy(opened)

    async def child(self, **options):
        child = Socket(headers=[(b"x-client-id", b"shop-1")], **options)
        assert await child.open()
        return child

    async def known(self):
        child = await self.child()
        await child.ask(hello())
        return child

    async def sleeping(self):
        child = await self.known()
        await asleep(self.opened, self.clock)
        return child

    async def leaves_at_once(self):
        await (await self.child()).leave()

    async def leaves_when_known(self):
        await (await self.known()).leave()

    async def says_goodbye(self):
        child = await self.known()
        assert await child.ask(GOODBYE) == 1000
        await ended(child)

    async def is_refused_for_its_name(self):
        child = Socket(headers=[(b"x-client-id", b"a\x00b")])
        assert not await child.open()
        await ended(child)

    async def gives_up_while_it_is_let_in(self):
        self.clock.now_ms += KNOWN_MS
        async with writer_busy(self.opened):
            child = Socket()
            await child.send_input({"type": "websocket.connect"})
            await parked(self.opened)
            child.future.cancel()
            await ended(child)

    async def comes_when_the_database_is_away(self):
        self.clock.now_ms += KNOWN_MS
        self.monkeypatch.setattr("lakehouse.parent.arrivals.judge", away)
        child = Socket()
        assert await child.open()
        assert await child.hear() == 1013
        await ended(child)

    async def is_unknown_when_the_database_goes_away(self):
        child = await self.child()
        self.monkeypatch.setattr("lakehouse.parent.arrivals.arrive", away)
        assert await child.ask(hello()) == 1013
        await ended(child)

    async def wakes_when_the_database_is_away(self):
        child = await self.sleeping()
        self.monkeypatch.setattr("lakehouse.parent.arrivals.come_back", away)
        assert await child.ask(wire(1, run(1, 1))) == 1013
        await ended(child)

    async def sends_too_much_too_often(self):
        child = await self.child()
        for _ in range(3):
            await child.say("x" * (4 * 1024 * 1024 + 1))
            assert "payload_too_large" in (await child.receive_output(5))["text"]
        assert await child.hear() == 1008
        await ended(child)

    async def does_not_read(self):
        self.monkeypatch.setattr("lakehouse.parent.outflow.BYTES_MAX", 1)
        child = await self.child()
        assert await child.ask("ping") == "pong"
        for _ in range(2):
            await child.say("ping")
        heard = [await child.hear()]
        while heard[-1] != 1013:
            heard.append(await child.hear())
        await ended(child)

    async def leaves_asleep(self):
        await (await self.sleeping()).leave()

    async def is_ended_asleep(self):
        child = await self.sleeping()
        child.future.cancel()
        assert await child.hear() == 1001
        await ended(child)

    async def is_ended_while_it_wakes(self):
        child = await self.sleeping()
        async with writer_busy(self.opened):
            await child.say(wire(1, run(1, 1)))
            await parked(self.opened)
            child.future.cancel()
            await ended(child)

    async def leaves_while_it_wakes(self):
        child = await self.sleeping()
        async with writer_busy(self.opened):
            await child.say(wire(1, run(1, 1)))
            await parked(self.opened)
            await child.send_input({"type": "websocket.disconnect", "code": 1006})
        await ended(child)

    async def is_ended_while_it_becomes_known(self):
        child = await self.child()
        async with writer_busy(self.opened):
            await child.say(hello())
            await parked(self.opened)
            child.future.cancel()
        await ended(child)

    async def is_ended_with_a_batch_under_way(self):
        child = await self.known()
        async with writer_busy(self.opened):
            await child.say(wire(1, run(1, 1)))
            await parked(self.opened)
            child.future.cancel()
        await ended(child)

    async def leaves_with_a_batch_under_way(self):
        child = await self.known()
        async with writer_busy(self.opened):
            await child.say(wire(2, run(2, 2)))
            await parked(self.opened)
            await child.leave()
        await self.opened.intake.drained()

    async def leaves_while_it_waits_for_its_tables(self):
        child = await self.known()
        await child.ask(wire(3, run(3, 3)))
        await child.say(persisted_request(3))
        while not self.opened.persisted.waiting:
            await asyncio.sleep(0)
        await child.leave()

    async def leaves_while_it_waits_for_a_flush(self):
        child = await self.known()
        await child.say(FLUSH)
        await child.leave()

    async def is_replaced(self):
        children = [await self.known() for _ in range(5)]
        newest = await self.known()
        assert await children[0].hear() == 1013
        for child in (*children[1:], newest):
            await child.leave()
        await ended(children[0])

    async def is_replaced_asleep(self):
        children = [await self.known() for _ in range(5)]
        await asleep(self.opened, self.clock, count=5)
        newest = await self.known()
        assert await children[0].hear() == 1013
        for child in (*children[1:], newest):
            await child.leave()
        await ended(children[0])

    async def meets_a_mistake_of_ours(self):
        child = await self.child()
        self.monkeypatch.setattr("lakehouse.parent.arrivals.arrive", lambda *_, **__: 1 / 0)
        assert await child.ask(hello()) == 1011
        await ended(child)

    async def is_gone_when_it_is_answered(self):
        child = await self.known()
        self.monkeypatch.setattr(child.output_queue, "put_nowait", gone)
        await child.say("ping")
        await child.leave()

    async def is_gone_when_it_is_said_goodbye(self):
        child = await self.known()
        self.monkeypatch.setattr(child.output_queue, "put_nowait", gone)
        await child.say(GOODBYE)
        await ended(child)


WAYS = [name for name in vars(Ends) if "_" in name and not name.startswith("_")]


def away(*_args, **_options):
    raise OperationalError("the database is away")


def gone(_message):
    raise ConnectionResetError("nobody is there")


async def test_however_connections_end_every_count_is_zero_again(monkeypatch, caplog):
    assert len(WAYS) == 24
    async with home(whitelisted_ips="", connections_per_second=10_000) as (opened, _):
        ends = Ends(opened, monkeypatch)
        for way in WAYS:
            with monkeypatch.context() as patch:
                ends.monkeypatch = patch
                await getattr(ends, way)()
            assert left_behind(opened) == NOTHING, way
    assert "never retrieved" not in caplog.text


async def test_the_child_hears_of_every_batch_that_a_stopping_process_did_not_take():
    """Those it sends while the others are still on their way to the journal, too."""
    async with home() as (opened, _):
        shop = Child()
        assert await shop.open()
        await shop.ask(batch("dolake", 1))
        async with writer_busy(opened):
            await shop.say(batch("dolake", 2))
            await parked(opened)
            shop.future.cancel()
            await shop.say(batch("dolake", 3))
            assert (await shop.hear())["reason"] == "shutting_down"
            for number in (4, 5):
                nack = await shop.ask(batch("dolake", number))
                assert (nack["sequenceNumber"], nack["reason"]) == (number, "shutting_down")
        assert (await shop.hear())["status"] == "ok"
        assert await shop.hear() == (1001, "")
        await ended(shop)


@pytest.mark.parametrize("checked", [False, True])
async def test_a_batch_whose_child_is_being_looked_up_when_the_process_stops_is_told_to_come_back(checked, monkeypatch):
    monkeypatch.setattr("lakehouse.parent.connection.ACCESS_CHECK_MS", 0)
    _, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
    async with home(open=False) as (opened, _):
        shop = Child(token=token)
        assert await shop.open()
        if checked:
            await shop.ask(batch("dolake", 1))
        async with writer_busy(opened):
            await shop.say(batch("dolake", 2))
            await parked(opened)
            shop.future.cancel()
            nack = await shop.hear()
            assert (nack["sequenceNumber"], nack["correlationId"], nack["reason"]) == (2, "c-2", "shutting_down")
        assert await shop.hear() == (1001, "")
        await ended(shop)


@pytest.mark.parametrize("fails", ["receive", "offer", "arrive", "may_write"])
async def test_a_mistake_of_ours_is_a_nack_with_its_batch_in_the_log_and_the_connection_lives(
    fails, monkeypatch, caplog
):
    monkeypatch.setattr("lakehouse.parent.connection.ACCESS_CHECK_MS", 0)
    _, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
    broken = {
        "receive": (ParentSession, "_bind"),
        "offer": ("lakehouse.parent.teller.Teller.offer",),
        "arrive": ("lakehouse.parent.arrivals.arrive",),
        "may_write": ("lakehouse.parent.arrivals.may_write",),
    }[fails]
    async with home(open=False):
        shop = Child(token=token)
        assert await shop.open()
        if fails != "arrive":
            await shop.ask(batch("dolake", 1))
        monkeypatch.setattr(*broken, lambda *_, **__: 1 / 0)
        with caplog.at_level(logging.ERROR):
            nack = await shop.ask(batch("dolake", 2))
        assert (nack["reason"], nack["shouldRetry"], nack["retryDelayMs"]) == ("internal_error", True, 1000)
        assert (nack["sequenceNumber"], nack["correlationId"]) == (2, "c-2")
        assert "ZeroDivisionError" in caplog.text
        assert "c-2" in caplog.text
        monkeypatch.undo()
        assert (await shop.ask(batch("dolake", 2)))["status"] == "ok"
        await shop.leave()


async def test_a_child_that_does_not_read_is_let_go_when_its_time_is_up():
    """Where sending waits for the reader, so would saying goodbye."""
    async with home(drain_ms=100) as (opened, _):
        shop = Socket()
        assert await shop.open()
        shop.output_queue._maxsize = 1
        await shop.say("ping")
        await shop.say("ping")
        await shop.say(GOODBYE)
        await ended(shop)
        assert left_behind(opened) == NOTHING


async def test_a_silent_child_of_a_process_that_stops_hears_1001_and_does_not_fall_asleep_meanwhile(caplog):
    async with home() as (opened, _):
        clock = drowsy(opened)
        shop = Socket(headers=[(b"x-client-id", b"shop-1")])
        assert await shop.open()
        await shop.ask(hello())
        shop.output_queue._maxsize = 1
        await shop.output_queue.put({"type": "websocket.send", "text": "pong"})  # the goodbye has to wait
        shop.future.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
            clock.now_ms += 10_000
            opened.dormitory.look()
        assert await shop.hear() == "pong"
        assert await shop.hear() == 1001
        await ended(shop)
        assert left_behind(opened) == NOTHING
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_child_that_has_all_its_answers_need_not_wait_for_the_database_to_hear_goodbye():
    async with home() as (opened, _), child_of_shop() as shop:
        await shop.ask(hello())
        assert (await shop.ask(wire(1, run(1, 1)))).status == AckStatus.OK
        async with writer_busy(opened):
            shop.future.cancel()
            assert await shop.hear() == 1001


async def test_who_asks_for_the_tables_of_more_batches_than_anybody_waits_for_is_sent_away(monkeypatch):
    monkeypatch.setattr("lakehouse.parent.persisted.WATCHED_MAX", 3)
    async with home(), child_of_shop() as shop:
        await shop.ask(hello())
        for sequence in range(1, 5):
            await shop.ask(wire(sequence, run(sequence, sequence)))
        for sequence in (1, 1, 1, 2, 2, 3):
            await shop.say(persisted_request(sequence))
        await shop.say("ping")
        assert await shop.hear() == "pong"
        assert await shop.ask(persisted_request(4)) == 1013


@contextlib.asynccontextmanager
async def child_of_shop():
    shop = Socket()
    assert await shop.open()
    yield shop
    await ended(shop)


async def test_a_child_that_waits_for_thousands_of_tables_hears_of_all_of_them():
    """More than it has tokens for: it waits its turn, for it asks only once."""
    settings = {"messages_per_second": 100, "window_batches_max": 5}
    async with home(**settings) as (opened, _):
        shop = Socket()
        assert await shop.open()
        await shop.ask(hello())
        for sequence in range(1, 5):
            await shop.ask(wire(sequence, run(sequence, sequence)))
        for sequence in (1, 2, 3, 4) * 8:
            await shop.say(persisted_request(sequence))
        assert await shop.ask("ping") == "pong"
        await in_thread(lambda: Batch.objects.update(state=BatchState.PERSISTED))
        told = [await shop.hear() for _ in range(4)]
        assert {(ack.sequence_number, ack.status) for ack in told} == {(n, AckStatus.PERSISTED) for n in range(1, 5)}
        assert opened.persisted.waiting == 0
        await shop.leave()
        assert left_behind(opened) == NOTHING


async def nobody_left(opened):
    async with asyncio.timeout(10):
        while left_behind(opened) != NOTHING:
            await asyncio.sleep(0.01)


async def test_a_socket_that_breaks_with_batches_under_way_is_no_trouble(caplog):
    """On a server that raises when nobody is there any more."""
    gc.collect()
    caplog.clear()  # what other tests left to be collected is theirs
    async with serving() as server:
        for _ in range(10):
            shop = await connect(server.url)
            for sequence in range(1, 20):
                await shop.send(wire(sequence, run(sequence, sequence)))
            shop.transport.abort()
        await nobody_left(server.house)
        await server.house.intake.drained()
    gc.collect()
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    # asyncio notes each write to a socket that is gone already; whether there is one is a matter of time.
    assert [message for message in said if message != "socket.send() raised exception."] == []


async def test_a_child_that_reads_nothing_is_cut_off_and_forgotten(monkeypatch, caplog):
    """On a server whose `send` waits for the reader."""
    monkeypatch.setattr("lakehouse.parent.outflow.BYTES_MAX", 256 * 1024)
    async with serving(drain_ms=100) as server:
        server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        rude = await asyncio.to_thread(RawSocket, server.listener.getsockname()[1])
        rude.socket.setblocking(False)
        with rude, contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while server.house.connections:
                    with contextlib.suppress(BlockingIOError):
                        rude.socket.send(framed("") * 100)
                    await asyncio.sleep(0)
        await nobody_left(server.house)
    assert "were not answered in time" in caplog.text


async def test_a_key_revoked_asleep_leaves_nothing():
    row, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=1))
    async with home(open=False) as (opened, _):
        clock = drowsy(opened)
        shop = Socket(token=token)
        assert await shop.open()
        await shop.ask(hello())
        await asleep(opened, clock)
        await in_thread(lambda: AccessKey.objects.filter(pk=row.pk).update(revoked_ms=1))
        assert await shop.ask(wire(1, run(1, 1))) == 1008
        await ended(shop)
        assert left_behind(opened) == NOTHING


async def test_a_child_that_was_deleted_is_ended_with_1008_and_begins_anew_when_it_comes_back(caplog):
    async with home():
        child = Socket()
        assert await child.open()
        assert (await child.ask(hello())).type == "status"
        assert (await child.ask(wire(1, run(1, 1)))).status is AckStatus.OK
        await in_thread(lambda: (Batch.objects.all().delete(), ChildRow.objects.all().delete()))
        for number in (2, 3):
            await child.say(wire(number, run(number, number)))
        found = [await child.hear(), await child.hear()]
        if found[-1] != 1008:
            found.append(await child.ask(wire(2, run(2, 2))))
        assert found[-1] == 1008
        assert {(nack.reason, nack.should_retry) for nack in found[:-1]} == {(NackReason.INTERNAL_ERROR, True)}
        again = Socket()
        assert await again.open()
        await again.ask(hello())
        assert (await again.ask(wire(2, run(2, 2)))).status is AckStatus.OK
        await again.leave()
    assert [record.levelname for record in caplog.records if record.name.startswith("lakehouse")] == ["WARNING"]


@pytest.mark.parametrize("first", [hello(), wire(1, run(1, 1))])
async def test_a_new_child_at_a_parent_that_was_deleted_hears_1008(first):
    async with home():
        child = Socket()
        assert await child.open()
        await in_thread(lambda: Parent.objects.all().delete())
        assert await child.ask(first) == 1008


async def test_children_that_wait_for_a_flush_hear_that_the_process_stops():
    async with home() as (opened, asked):
        child = Socket()
        assert await child.open()
        await child.ask(hello())
        assert (await child.ask(wire(1, run(1, 1)))).status is AckStatus.OK
        await child.say(FLUSH)
        while not asked:
            await asyncio.sleep(0)
        assert opened.flush_watch.waiting == 1
        await opened.flush_watch.stop()
        answer = await child.hear()
        assert (answer.result.success, answer.correlation_id) == (False, "f-1")
        assert "this process stops" in answer.result.error
        await child.leave()
