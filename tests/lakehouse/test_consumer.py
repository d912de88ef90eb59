import asyncio
import contextlib

import pytest
from channels.testing import ApplicationCommunicator

from evodb_site.asgi import application
from lakehouse.conf import Settings
from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import Batch, Child, Parent
from lakehouse.parent import access
from lakehouse.parent.house import move_in, open_house
from rpc.messages import (
    AckStatus,
    ConnectMessage,
    DisconnectMessage,
    FlushRequestMessage,
    HeartbeatMessage,
    NackReason,
)
from rpc.protocol import decode_message, encode_message
from tests.builders import NOW_MS, run, wire
from tests.lakehouse.test_intake import impatient, in_thread, locked

pytestmark = pytest.mark.django_db(transaction=True)


class Socket(ApplicationCommunicator):
    """A child's end of a socket, without a network in between."""

    def __init__(self, path="/ws", *, token=None, headers=(), query=""):
        bearer = [(b"authorization", f"Bearer {token}".encode())] if token else []
        scope = {
            "type": "websocket",
            "path": path,
            "query_string": query.encode(),
            "headers": [*bearer, *headers],
        }
        super().__init__(application, scope)

    async def open(self):
        await self.send_input({"type": "websocket.connect"})
        return (await self.receive_output(5))["type"] == "websocket.accept"

    async def say(self, frame):
        await self.send_input({"type": "websocket.receive", ("text" if isinstance(frame, str) else "bytes"): frame})

    async def hear(self):
        output = await self.receive_output(5)
        if output["type"] == "websocket.close":
            return output["code"]
        frame = output.get("text", output.get("bytes"))
        return frame if frame == "pong" else decode_message(frame)

    async def ask(self, frame):
        await self.say(frame)
        return await self.hear()

    async def leave(self):
        await self.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.wait(5)


@contextlib.asynccontextmanager
async def home(**settings):
    asked = []
    opened = move_in(
        open_house(
            Settings(**{"open": True} | settings), ask=lambda parent_id, trigger: asked.append((parent_id, trigger))
        )
    )
    yield opened, asked
    await opened.close()


def hello(epoch=5, name="shop-1"):
    return encode_message(ConnectMessage(timestamp=NOW_MS, source_do_id=name, epoch=epoch))


@contextlib.asynccontextmanager
async def socket(**options):
    child = Socket(**options)
    assert await child.open()
    yield child
    await child.leave()


async def test_a_batch_is_acked_when_it_is_in_the_journal():
    async with home(), socket() as child:
        ack = await child.ask(wire(1, run(1, 3), correlation_id="c-1"))
        assert (ack.status, ack.correlation_id, ack.details.entries_processed) == (AckStatus.OK, "c-1", 3)
        assert await in_thread(Batch.objects.count) == 1


async def test_a_child_hears_where_to_resume():
    async with home():
        async with socket() as child:
            assert (await child.ask(hello())).resume_sequence == 0
            for sequence in (1, 2, 4):
                await child.ask(wire(sequence, run(sequence, sequence)))
        async with socket() as child:
            status = await child.ask(hello())
            assert (status.resume_sequence, status.buffer.batch_count) == (2, 3)
            assert (await child.ask(wire(4, run(4, 4)))).status is AckStatus.DUPLICATE
        async with socket() as child:
            assert (await child.ask(hello(epoch=6))).resume_sequence == 0


async def test_an_old_child_hears_no_resume_sequence():
    async with home(), socket() as child:
        status = await child.ask('{"type":"connect","timestamp":1,"sourceDoId":"old"}')
        assert not status.resume_sequence


async def test_ping_and_heartbeat_are_answered():
    async with home(), socket() as child:
        assert await child.ask("ping") == "pong"
        assert (await child.ask(encode_message(HeartbeatMessage(timestamp=7, source_do_id="s")))).timestamp == 7


@pytest.mark.parametrize("frame", ["", "{", b"\xc2\xcd\x01", b"\x00" * 50, wire(1, run(1, 2))[:-1]])
async def test_a_malformed_frame_is_refused_and_the_connection_lives(frame):
    async with home(), socket() as child:
        nack = await child.ask(frame)
        assert (nack.reason, nack.should_retry) == (NackReason.INVALID_FORMAT, False)
        assert (await child.ask(wire(1, run(1, 3)))).status is AckStatus.OK


@pytest.mark.parametrize("token", [None, "", "wrong", "evodb_wrong"])
async def test_a_wrong_token_is_refused_at_the_handshake(token):
    async with home(open=False):
        child = Socket(token=token)
        assert not await child.open()
        await child.wait(5)
    assert await in_thread(Parent.objects.count) == 0


async def test_a_key_opens_the_door_as_header_and_in_the_address():
    _, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
    async with home(open=False):
        for options in ({"token": token}, {"query": f"token={token}"}):
            async with socket(**options) as child:
                assert await child.ask("ping") == "pong"


async def test_a_key_without_the_scope_to_ingest_is_refused():
    _, token = await in_thread(lambda: access.new_key("k", scopes=["query"], now_ms=NOW_MS))
    async with home(open=False):
        child = Socket(token=token)
        assert not await child.open()
        await child.wait(5)


async def test_a_key_of_one_child_cannot_write_as_another():
    _, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], source_pattern="shop-*", now_ms=NOW_MS))
    async with home(open=False):
        async with socket(token=token) as child:
            assert (await child.ask(wire(1, run(1, 1)))).status is AckStatus.OK
        child = Socket(token=token)
        assert await child.open()
        assert await child.ask(hello(name="bank-1")) == 1008
        await child.wait(5)
        child = Socket(token=token, headers=[(b"x-client-id", b"bank-1")])
        assert not await child.open()
        await child.wait(5)
    assert await in_thread(lambda: list(Child.objects.values_list("name", flat=True))) == ["shop-1"]


async def test_a_batch_is_credited_to_the_child_of_the_connection():
    async with home(), socket() as child:
        await child.ask(hello(name="shop-1"))
        await child.ask(wire(1, run(1, 1), source="somebody-else"))
    assert await in_thread(lambda: Batch.objects.get().child.name) == "shop-1"


@pytest.mark.parametrize(
    ("path", "query", "name"),
    [("/ws", "", "default"), ("/ws/eu-1", "", "eu-1"), ("/ws", "table=orders", "lakehouse-orders")],
)
async def test_the_address_names_the_parent(path, query, name):
    async with home(), socket(path=path, query=query) as child:
        await child.ask("ping")
    assert await in_thread(lambda: Parent.objects.get().name) == name


@pytest.mark.parametrize("path", ["/ws/../etc", "/ws/a b", "/other", "/ws/" + "x" * 101])
async def test_any_other_address_is_refused(path):
    async with home():
        child = Socket(path=path)
        assert not await child.open()
        await child.wait(5)


@pytest.mark.parametrize("name", [b"x" * 501, b"a\x00b"])
async def test_a_header_with_a_name_that_cannot_be_stored_is_refused(name):
    async with home():
        child = Socket(headers=[(b"x-client-id", name)])
        assert not await child.open()
        await child.wait(5)


async def test_a_locked_database_means_come_back_later_and_nothing_is_acked():
    async with home() as (opened, _asked), socket() as child:
        assert (await child.ask(wire(1, run(1, 1)))).status is AckStatus.OK
        await opened.intake.run(impatient)
        parent = await in_thread(Parent.objects.get)
        async with locked(parent):
            nack = await child.ask(wire(2, run(2, 2)))
            assert (nack.reason, nack.should_retry, nack.retry_delay_ms) == (NackReason.INTERNAL_ERROR, True, 1000)
        assert (await child.ask(wire(2, run(2, 2)))).status is AckStatus.OK


async def test_a_stopping_process_answers_what_it_accepted_and_closes_with_1001():
    async with home():
        child = Socket()
        assert await child.open()
        for sequence in range(1, 51):
            await child.say(wire(sequence, run(sequence, sequence)))
        first = await child.hear()
        child.future.cancel()
        heard = [first]
        while not isinstance(heard[-1], int):
            heard.append(await child.hear())
        acked = {ack.sequence_number for ack in heard[:-1] if ack.status is AckStatus.OK}
        assert heard[-1] == 1001
        assert len(acked) == len(heard) - 1
        stored = await in_thread(lambda: set(Batch.objects.values_list("sequence", flat=True)))
        assert stored == acked
        with contextlib.suppress(asyncio.CancelledError):
            await child.future


async def test_a_goodbye_is_answered_with_a_clean_close_and_asks_for_a_flush():
    async with home() as (opened, asked):
        child = Socket()
        assert await child.open()
        await child.ask(wire(1, run(1, 1)))
        assert await child.ask(encode_message(DisconnectMessage(timestamp=1))) == 1000
        await child.wait(5)
        await opened.alarms.settled()
        parent_id = await in_thread(lambda: Parent.objects.get().pk)
        assert asked == [(parent_id, FlushTrigger.GOODBYE)]
        await opened.intake.drained()
    assert await in_thread(lambda: Child.objects.get().state) == "gone"


async def test_a_full_buffer_asks_for_a_flush_at_its_threshold():
    async with home() as (opened, asked), socket() as child:
        await child.ask("ping")
        await in_thread(lambda: Parent.objects.update(config={"flush_threshold_entries": 3}))
        await child.ask(wire(1, run(1, 2)))
        await opened.alarms.settled()
        assert asked == []
        await child.ask(wire(2, run(3, 3)))
        await opened.alarms.settled()
        assert [trigger for _, trigger in asked] == [FlushTrigger.ENTRIES]


async def test_a_flush_of_an_empty_parent_succeeds_with_nothing_written():
    async with home(), socket() as child:
        request = FlushRequestMessage(timestamp=1, source_do_id="s", correlation_id="f-1")
        response = await child.ask(encode_message(request))
        assert response.correlation_id == "f-1"
        assert (response.result.success, response.result.entries_flushed) == (True, 0)


async def test_an_idle_parent_has_no_timer():
    async with home() as (opened, _asked), socket() as child:
        await child.ask("ping")
        assert opened.alarms.armed == 0
        await child.ask(wire(1, run(1, 1)))
        assert opened.alarms.armed == 1


async def test_a_key_that_was_revoked_ends_its_open_connections(monkeypatch):
    monkeypatch.setattr("lakehouse.parent.connection.ACCESS_CHECK_MS", 0)
    row, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
    async with home(open=False):
        child = Socket(token=token)
        assert await child.open()
        assert (await child.ask(wire(1, run(1, 1)))).status is AckStatus.OK
        await in_thread(lambda: type(row).objects.update(revoked_ms=NOW_MS))
        assert await child.ask(wire(2, run(2, 2))) == 1008
        await child.wait(5)
    assert await in_thread(Batch.objects.count) == 1


async def test_a_key_that_was_revoked_flushes_nothing_any_more(monkeypatch):
    monkeypatch.setattr("lakehouse.parent.connection.ACCESS_CHECK_MS", 0)
    row, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
    async with home(open=False) as (_, asked):
        child = Socket(token=token)
        assert await child.open()
        await in_thread(lambda: type(row).objects.update(revoked_ms=NOW_MS))
        flush = FlushRequestMessage(timestamp=1, source_do_id="shop-1", correlation_id="f-1")
        assert await child.ask(encode_message(flush)) == 1008
        await child.wait(5)
    assert asked == []


@pytest.mark.parametrize("is_asleep", [False, True])
async def test_a_child_that_says_nothing_is_let_go_when_its_key_is_revoked(is_asleep):
    row, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
    async with home(open=False) as (opened, _):
        child = Socket(token=token)
        assert await child.open()
        await child.ask(hello())
        if is_asleep:
            opened.dormitory._after_ms = 0
            opened.dormitory.look()
            assert opened.dormitory.asleep == 1
        assert await opened.key_watch.look()
        await in_thread(lambda: type(row).objects.update(revoked_ms=NOW_MS))
        assert not await opened.key_watch.look()
        assert await child.hear() == 1008
        await child.wait(5)


async def test_an_id_too_long_to_be_echoed_is_refused_and_the_connection_lives():
    async with home(), socket() as child:
        nack = await child.ask(wire(1, run(1, 1), correlation_id="x" * 1025))
        assert (nack.reason, nack.sequence_number, bool(nack.correlation_id)) == (NackReason.INVALID_FORMAT, 1, False)
        nack = await child.ask('{"type":"cdc_batch","correlationId":"' + "x" * 70_000 + '"}')
        assert (nack.reason, bool(nack.correlation_id)) == (NackReason.INVALID_FORMAT, False)
        assert (await child.ask(wire(1, run(1, 1)))).status is AckStatus.OK


async def test_a_child_that_makes_more_answers_wait_than_it_reads_is_cut_off(monkeypatch):
    monkeypatch.setattr("lakehouse.parent.outflow.BYTES_MAX", 3)
    async with home():
        child = Socket()
        assert await child.open()
        for _ in range(3):
            await child.say("ping")
        heard = [await child.hear()]
        while not isinstance(heard[-1], int):
            heard.append(await child.hear())
        assert heard[-1] == 1013
        await child.wait(5)
