"""Sockets behind a proxy, with the proxy played by the test: it keeps what it is given and sends it back."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import jwt
import pytest
from django.db import OperationalError

from lakehouse.conf import Settings
from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import Batch, BatchState, Child, ConnectionState, Parent
from lakehouse.parent import access, edge_events
from lakehouse.parent.edge import AROUND_A_FRAME_BYTES, Edge
from lakehouse.parent.edge_events import Event, Kind
from lakehouse.parent.hibernation import BEATS_MAX
from lakehouse.parent.house import house, move_in, open_house
from rpc.messages import (
    AckStatus,
    ClientCapabilities,
    ConnectMessage,
    DisconnectMessage,
    FlushReason,
    FlushRequestMessage,
    HeartbeatMessage,
    NackReason,
    PersistedRequestMessage,
)
from rpc.names import NAME_CHARS_MAX
from rpc.protocol import decode_message, encode_message
from tests.builders import NOW_MS, run, wire
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

KEY = "a key of at least thirty-two characters"
OPEN = Event(Kind.OPEN)
DISCONNECT = Event(Kind.DISCONNECT)
HEARTBEAT = encode_message(
    HeartbeatMessage(timestamp=NOW_MS, source_do_id="shop-1", last_ack_sequence=0, pending_entries=0)
)
FLUSH = encode_message(
    FlushRequestMessage(timestamp=NOW_MS, source_do_id="shop-1", reason=FlushReason.MANUAL, correlation_id="c-1")
)
PONGS = b'c:{"type":"keep-alive","content":"pong","timeout":20}'


def hello(epoch=5, name="shop-1", **capabilities):
    offered = ClientCapabilities(**capabilities)
    return encode_message(ConnectMessage(timestamp=NOW_MS, source_do_id=name, epoch=epoch, capabilities=offered))


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def events(self):
        assert self.status == 200, self.body
        assert self.headers[b"content-type"] == edge_events.CONTENT_TYPE
        return edge_events.read(self.body)

    @property
    def frames(self):
        """What the child hears; orders are the proxy's."""
        frames = [event.frame for event in self.events if event.kind in (Kind.TEXT, Kind.BINARY)]
        heard = [frame for frame in frames if not str(frame).startswith("c:")]
        return [frame if frame == "pong" else decode_message(frame) for frame in heard]

    @property
    def code(self):
        """With which the socket was closed."""
        return next((int.from_bytes(e.content[:2], "big") for e in self.events if e.kind is Kind.CLOSE), None)


@dataclass
class Socket:
    """One socket in the hands of the proxy."""

    edge: Edge
    connection_id: str = "0a17f4c0-d7d4-4859-9ba7-7362a5f3e156"
    path: str = "/ws"
    query: str = ""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    meta: bytes | None = None

    async def post(self, body, *, part_bytes=1 << 20, **changes):
        answer = await post(self.edge, self.scope(**changes), body, part_bytes=part_bytes)
        self.meta = answer.headers.get(b"set-meta-evodb", self.meta)
        return answer

    def scope(self, **changes):
        kept = [] if self.meta is None else [(b"Meta-Evodb", self.meta)]
        own = [(b"content-type", edge_events.CONTENT_TYPE), (b"connection-id", self.connection_id.encode())]
        headers = [*own, *self.headers, *kept]
        scope = {"type": "http", "method": "POST", "path": self.path, "query_string": self.query.encode()}
        return scope | {"headers": headers, "client": ["127.0.0.1", 1]} | changes

    async def open(self):
        return await self.post(b"OPEN\r\n")

    async def tell(self, *events):
        return await self.post(edge_events.write(events))

    async def say(self, *frames):
        return await self.tell(*map(edge_events.say, frames))

    async def ask(self, frame):
        [answer] = (await self.say(frame)).frames
        return answer


async def post(edge, scope, body, *, part_bytes=1 << 20):
    parts = [body[at : at + part_bytes] for at in range(0, len(body), part_bytes)] or [b""]
    sent = []

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    await edge(scope, receive, send)
    start, finish = sent
    assert (start["type"], finish["type"]) == ("http.response.start", "http.response.body")
    headers = {name.lower(): value for name, value in start["headers"]}
    assert int(headers[b"content-length"]) == len(finish["body"])
    return Answer(start["status"], headers, finish["body"])


async def beneath(scope, receive, send):
    """Django's side of the site."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def socket(*, key="", opened=True, **settings):
    house_settings = Settings(**({"open": True, "presence_interval_ms": 10} | settings))
    move_in(open_house(house_settings, ask=lambda *_: None))
    found = Socket(Edge(beneath, key=key))
    if opened:
        assert (await found.open()).events == [OPEN]
    yield found
    await house().close()


async def restarted(**settings):
    """Every process ended, and another one begins."""
    await house().close()
    move_in(open_house(Settings(**({"open": True, "presence_interval_ms": 10} | settings)), ask=lambda *_: None))


async def eventually(found):
    async with asyncio.timeout(10):
        while not await found():
            await asyncio.sleep(0.01)


async def test_a_child_connects_and_its_batch_is_durable_when_it_is_acknowledged():
    async with socket() as shop:
        status = await shop.ask(hello())
        assert status.resume_sequence == 0
        ack = await shop.ask(wire(1, run(1, 3)))
    assert (ack.status, ack.sequence_number, ack.details.entries_processed) == (AckStatus.OK, 1, 3)
    assert await in_thread(Batch.objects.get) == await in_thread(
        lambda: Batch.objects.get(sequence=1, epoch=5, child__name="shop-1")
    )


async def test_a_connection_goes_on_in_a_process_that_never_saw_it():
    async with socket() as shop:
        await shop.say(hello(binary_replies=True))
        await shop.say(wire(1, run(1, 3)))
        await restarted()
        answer = await shop.say(wire(1, run(1, 3)), wire(2, run(4, 5)))
    assert [(ack.sequence_number, ack.status) for ack in answer.frames] == [(1, AckStatus.DUPLICATE), (2, AckStatus.OK)]
    assert all(event.kind is Kind.BINARY for event in answer.events)


async def test_a_child_that_keeps_no_epoch_goes_on_as_the_same_child():
    async with socket() as shop:
        await shop.say(wire(1, run(1, 2)))
        await restarted()
        again, new = (await shop.say(wire(2, run(1, 2)), wire(3, run(3, 4)))).frames
    assert (again.status, new.status) == (AckStatus.DUPLICATE, AckStatus.OK)
    assert await in_thread(Batch.objects.filter(sequence=3, child__name="shop-1").exists)


async def test_frames_of_one_request_are_served_in_order():
    async with socket() as shop:
        answer = await shop.say(hello(), *(wire(n, run(n, n)) for n in range(1, 51)))
    status, *acks = answer.frames
    assert status.type == "status"
    assert [ack.sequence_number for ack in acks] == list(range(1, 51))


async def test_nothing_of_a_connection_stays_in_the_process():
    async with socket() as shop:
        await shop.say(hello(), wire(1, run(1, 3)))
        at_home = house()
        assert (at_home.dormitory.awake, at_home.dormitory.asleep, at_home.persisted.waiting) == (0, 0, 0)
        assert (at_home.connections, at_home.doorman.gate.guests) == ({}, {})
        assert at_home.presence._by_child == {}


async def test_pings_and_heartbeats_are_answered_without_the_database(monkeypatch):
    async with socket() as shop:
        await shop.say(hello())
        monkeypatch.setattr(house().intake, "run", pytest.fail)
        pong, heard, *_ = (await shop.say("ping", HEARTBEAT)).frames
        assert (await shop.tell(Event(Kind.PING, b"abc"), Event(Kind.PONG))).events == [Event(Kind.PONG, b"abc")]
        assert (await shop.post(b"")).events == []
    assert pong == "pong"
    assert heard.timestamp == NOW_MS


async def test_a_heartbeat_is_heard_of():
    async with socket() as shop:
        await shop.say(hello())
        before = await in_thread(Child.objects.get)
        assert before.state == ConnectionState.HIBERNATING

        async def is_told():
            await shop.say(HEARTBEAT)
            child = await in_thread(Child.objects.get)
            return child.state == ConnectionState.HIBERNATING and child.last_seen_ms > before.last_seen_ms

        await eventually(is_told)


async def test_ten_thousand_heartbeats_in_one_request_are_ten_thousand_heartbeats():
    async with socket(heartbeats_per_second=1, heartbeat_burst_capacity=5) as shop:
        await shop.say(hello())
        few = (await shop.say(*[HEARTBEAT] * (BEATS_MAX - 1))).frames
        more = (await shop.say(HEARTBEAT, HEARTBEAT)).frames
        flood = (await shop.say(*[HEARTBEAT] * 10_000)).frames
    assert (len(few), len(more)) == (BEATS_MAX - 1, 2)
    assert len(flood) < 10


async def test_a_child_that_only_beats_is_counted_at_last():
    """One that is answered asleep for ever would pay for no heartbeat."""
    async with socket(heartbeats_per_second=1, heartbeat_burst_capacity=1) as shop:
        await shop.say(hello())
        answers = [len((await shop.say("ping")).frames) for _ in range(BEATS_MAX)]
        assert answers == [1] * BEATS_MAX
        assert len((await shop.say("ping", "ping", "ping")).frames) == 1


async def test_a_child_that_keeps_an_epoch_is_kept_company_by_the_proxy():
    async with socket() as shop:
        said = await shop.say(hello())
        assert said.events[-1] == Event(Kind.TEXT, PONGS)
        assert PONGS not in (await shop.say(hello())).body
        await restarted()
        assert PONGS not in (await shop.say(hello(), wire(1, run(1, 1)))).body


async def test_an_old_child_hears_no_pong_it_did_not_ask_for():
    async with socket() as shop:
        assert PONGS not in (await shop.say(hello(epoch=None), wire(1, run(1, 1)))).body


async def test_news_of_tables_are_not_offered_to_a_child_behind_a_proxy():
    async with socket() as shop:
        assert (await shop.ask(hello())).persisted_acks is not True


async def test_a_batch_that_was_never_seen_is_not_waited_for():
    asked = encode_message(PersistedRequestMessage(timestamp=NOW_MS, source_do_id="shop-1", sequence_number=9))
    async with socket() as shop:
        await shop.say(hello())
        assert (await shop.ask(asked)).reason is NackReason.INVALID_SEQUENCE


async def test_a_flush_is_answered_when_everything_is_in_its_tables():
    async with socket() as shop:
        await shop.say(hello(), wire(1, run(1, 3)))
        asked = asyncio.create_task(shop.ask(FLUSH))
        done, _ = await asyncio.wait([asked], timeout=0.2)
        assert not done
        await in_thread(lambda: Batch.objects.update(state=BatchState.PERSISTED))
        flushed = await asked
    assert (flushed.correlation_id, flushed.result.success) == ("c-1", True)


async def test_a_child_that_hangs_up_during_a_flush_does_not_keep_the_parent_waiting():
    async with socket() as shop:
        await shop.say(hello(), wire(1, run(1, 3)))
        assert (await shop.tell(edge_events.say(FLUSH), Event(Kind.CLOSE, b"\x03\xe8"))).code == 1000


async def test_a_child_that_says_goodbye_is_gone():
    async with socket() as shop:
        await shop.say(hello())
        answer = await shop.say(encode_message(DisconnectMessage(timestamp=NOW_MS)))
        assert answer.code == 1000
        assert (await shop.tell(*answer.events)).events == answer.events
        await eventually(lambda: in_thread(Child.objects.filter(state=ConnectionState.GONE).exists))


@pytest.mark.parametrize("end", [Event(Kind.CLOSE, b"\x03\xe8"), Event(Kind.CLOSE), DISCONNECT])
async def test_a_socket_that_ends_wakes_nothing_and_its_child_is_gone(end, monkeypatch):
    async with socket() as shop:
        await shop.say(hello())
        monkeypatch.setattr("lakehouse.parent.arrivals.come_back", pytest.fail)
        answer = await shop.tell(end)
        assert answer.events == ([end] if end.kind is Kind.CLOSE else [])
        assert b"set-meta-evodb" not in answer.headers
        await eventually(lambda: in_thread(Child.objects.filter(state=ConnectionState.GONE).exists))


async def test_what_came_before_a_goodbye_is_durable():
    async with socket() as shop:
        ack, bye = (await shop.tell(edge_events.say(wire(1, run(1, 3))), Event(Kind.CLOSE, b"\x03\xe8"))).events
    assert decode_message(ack.frame).status is AckStatus.OK
    assert bye == Event(Kind.CLOSE, b"\x03\xe8")


async def test_a_mistake_of_ours_ends_one_connection_and_what_it_brought_before_is_durable(monkeypatch):
    async with socket() as shop:
        await shop.say(hello())
        monkeypatch.setattr("lakehouse.parent.connection.Connection._connect", lambda *_: 1 / 0)
        ack, close = (await shop.say(wire(1, run(1, 3)), hello())).events
    assert decode_message(ack.frame).status is AckStatus.OK
    assert close.content == b"\x03\xf3"
    assert await in_thread(Batch.objects.exists)


# Who is let in.


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_key_opens_the_door_and_comes_along(how):
    async with socket(open=False, opened=False) as shop:
        _, secret = await in_thread(lambda: access.new_key("a", scopes=["ingest"], now_ms=NOW_MS))
        if how == "header":
            shop.headers = [(b"Authorization", f"Bearer {secret}".encode())]
        else:
            shop.query = f"token={secret}"
        assert (await shop.open()).events == [OPEN]
        shop.headers, shop.query = [], ""
        assert (await shop.ask(hello())).resume_sequence == 0


async def test_a_stranger_is_refused_with_401():
    async with socket(open=False, opened=False) as shop:
        answer = await shop.open()
        assert (answer.status, answer.headers[b"www-authenticate"]) == (401, b"Bearer")


async def test_a_key_for_another_child_is_refused_with_403():
    async with socket(open=False, opened=False) as shop:
        _, secret = await in_thread(
            lambda: access.new_key("a", scopes=["ingest"], source_pattern="cafe-*", now_ms=NOW_MS)
        )
        shop.headers = [(b"authorization", f"Bearer {secret}".encode()), (b"x-client-id", b"shop-1")]
        assert (await shop.open()).status == 403


async def test_too_many_handshakes_are_refused_with_429():
    async with socket(connections_per_second=1) as shop:
        answer = await shop.open()
    assert (answer.status, answer.headers[b"retry-after"]) == (429, b"1")


async def test_a_handshake_tells_what_is_left():
    async with socket() as shop:
        answer = await shop.open()
        assert answer.headers[b"x-ratelimit-limit"] == b"100"
        assert answer.headers[b"sec-websocket-extensions"] == b'grip; message-prefix=""'


async def test_the_parent_is_in_the_path():
    async with socket(opened=False) as shop:
        shop.path = "/ws/north/"
        await shop.open()
        await shop.say(hello())
        assert await in_thread(Parent.objects.filter(name="north", children__name="shop-1").exists)


async def test_without_the_journal_nobody_is_let_in_and_all_may_come_back(monkeypatch):
    async with socket(opened=False) as shop:
        monkeypatch.setattr("lakehouse.parent.arrivals.judge", _away)
        assert (await shop.open()).status == 503


async def test_a_socket_that_cannot_wake_for_want_of_the_journal_is_asked_to_come_back(monkeypatch):
    async with socket() as shop:
        await shop.say(hello())
        monkeypatch.setattr("lakehouse.parent.arrivals.come_back", _away)
        assert (await shop.say(wire(1, run(1, 1)))).code == 1013


def _away(*_, **__):
    raise OperationalError("the journal is away")


async def test_a_revoked_key_ends_the_connection_at_its_next_batch():
    async with socket(open=False, opened=False) as shop:
        key, secret = await in_thread(lambda: access.new_key("a", scopes=["ingest"], now_ms=NOW_MS))
        shop.query = f"token={secret}"
        await shop.open()
        await shop.say(hello())
        key.revoked_ms = NOW_MS
        await in_thread(key.save)
        assert (await shop.say(wire(1, run(1, 1)))).code == 1008
        await eventually(lambda: in_thread(Child.objects.filter(state=ConnectionState.GONE).exists))
    assert not await in_thread(Batch.objects.exists)


async def test_a_house_that_was_open_and_is_not_any_more_lets_nobody_go_on_without_a_key():
    async with socket() as shop:
        await shop.say(hello())
        await restarted(open=False)
        assert (await shop.say(wire(1, run(1, 1)))).code == 1008
    assert not await in_thread(Batch.objects.exists)


# What is not believed.


async def test_a_connection_nobody_sealed_is_refused():
    async with socket() as shop:
        for meta in (None, b"", b"forged", b"A" * 5000):
            shop.meta = meta
            answer = await shop.say(wire(1, run(1, 1)))
            assert (answer.status, b"Meta-Evodb" in answer.body) == (400, True)
    assert not await in_thread(Batch.objects.exists)


async def test_a_connection_cannot_be_taken_over_by_another():
    async with socket() as shop:
        await shop.say(hello())
        thief = Socket(shop.edge, connection_id="another", meta=shop.meta)
        assert (await thief.say(wire(1, run(1, 1)))).status == 400


async def test_with_a_key_only_the_proxy_is_served():
    async with socket(key=KEY, opened=False) as shop:
        assert (await shop.open()).status == 403
        signed = jwt.encode({"iss": "pushpin", "exp": int(time.time()) + 3600}, KEY, algorithm="HS256")
        shop.headers = [(b"Grip-Sig", signed.encode())]
        assert (await shop.open()).events == [OPEN]


@pytest.mark.parametrize("connection_id", ["", "a b", "ä", "x" * 201])
async def test_a_request_without_a_proper_connection_id_is_refused(connection_id):
    async with socket(opened=False) as shop:
        shop.connection_id = connection_id
        assert (await shop.open()).status == 400


async def test_a_body_that_is_none_is_refused_and_says_where():
    async with socket() as shop:
        answer = await shop.post(b"OPEN\r\nnonsense")
    assert (answer.status, b"byte 6" in answer.body) == (400, True)


async def test_a_body_that_is_too_large_is_refused():
    async with socket(frame_bytes_max=64 * 1024) as shop:
        body = b"BINARY %x\r\n" % (2 * AROUND_A_FRAME_BYTES) + bytes(2 * AROUND_A_FRAME_BYTES) + b"\r\n"
        assert (await shop.post(body, part_bytes=10_000)).status == 413


async def test_a_body_may_come_in_parts():
    async with socket() as shop:
        await shop.say(hello())
        answer = await shop.post(edge_events.write([edge_events.say(wire(1, run(1, 3)))]), part_bytes=7)
    assert [frame.status for frame in answer.frames] == [AckStatus.OK]


async def test_a_text_that_is_not_utf_8_closes_the_socket_and_what_came_before_it_is_durable():
    async with socket() as shop:
        answer = await shop.tell(edge_events.say(wire(1, run(1, 3))), Event(Kind.TEXT, b"\xff"))
    assert answer.code == 1007
    assert await in_thread(Batch.objects.exists)


async def test_names_that_are_too_long_to_be_kept_are_told_so():
    async with socket(opened=False) as shop:
        shop.headers = [(b"x-client-id", b"\xe4" * NAME_CHARS_MAX), (b"x-shard-name", b"\xe4" * NAME_CHARS_MAX)]
        opened, closed = (await shop.open()).events
    assert opened == OPEN
    assert closed.content == b"\x03\xf0the names of child and shard are too long for a connection that sleeps"


async def test_a_long_name_is_no_matter_once_the_child_is_known():
    async with socket() as shop:
        await shop.say(hello(name="\U0001f41f" * NAME_CHARS_MAX))
        assert (await shop.ask(wire(1, run(1, 1)))).status is AckStatus.OK


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "GET"},
        {"path": "/elsewhere"},
        {"path": "/ws/a/b"},
        {"headers": [(b"connection-id", b"a"), (b"content-type", b"text/plain")]},
        {"headers": [(b"connection-id", b"a")]},
    ],
)
async def test_what_is_no_such_request_goes_to_the_site_beneath(changes):
    async with socket() as shop:
        assert (await shop.post(b"OPEN\r\n", **changes)).status == 404


# Ends.


async def test_a_proxy_that_hangs_up_in_the_middle_of_a_body_is_not_answered():
    async with socket() as shop:
        before = shop.meta
        sent, parts = [], [{"type": "http.disconnect"}, {"type": "http.request", "body": b"BIN", "more_body": True}]

        async def receive():
            return parts.pop()

        await shop.edge(shop.scope(), receive, lambda message: sent.append(message))
        assert (sent, shop.meta) == ([], before)


async def test_a_process_that_stops_answers_the_request_it_has_begun():
    async with socket() as shop:
        await shop.say(hello())
        sent, body = [], edge_events.write([edge_events.say(wire(1, run(1, 3)))])

        async def receive():
            task.cancel()
            return {"type": "http.request", "body": body}

        async def send(message):
            sent.append(message)

        task = asyncio.create_task(shop.edge(shop.scope(), receive, send))
        with pytest.raises(asyncio.CancelledError):
            await task
    [ack] = edge_events.read(sent[-1]["body"])
    assert decode_message(ack.frame).status is AckStatus.OK


# Who is here


def asked_of(opened):
    """What the house asks its workers for from now on."""
    asked = []
    opened.alarms._ask = lambda parent_id, trigger: asked.append(trigger)
    return asked


async def test_the_last_child_behind_the_proxy_left_and_nobody_flushed():
    async with socket() as shop:
        await shop.say(hello(), wire(1, run(1, 3)))
        other = Socket(shop.edge, connection_id="another-socket")
        await other.open()
        await other.say(hello(name="shop-2"))
        asked = asked_of(house())
        await shop.tell(DISCONNECT)
        await house().alarms.settled()
        assert asked == []
        await other.tell(DISCONNECT)
        await house().alarms.settled()
        assert asked == [FlushTrigger.GOODBYE]
        assert house().alarms.armed == 0
        await other.tell(DISCONNECT)
        await house().alarms.settled()
        assert asked == [FlushTrigger.GOODBYE]


async def test_the_last_child_left_through_a_process_that_took_none_of_its_batches():
    async with socket() as shop:
        await shop.say(hello(), wire(1, run(1, 3)))
        await restarted()
        asked = asked_of(house())
        await shop.tell(Event(Kind.CLOSE, b"\x03\xe8"))
        await house().alarms.settled()
        assert asked == [FlushTrigger.GOODBYE]


async def test_nothing_waits_and_the_last_child_that_leaves_asks_nobody():
    async with socket() as shop:
        await shop.say(hello())
        asked = asked_of(house())
        await shop.tell(DISCONNECT)
        await house().alarms.settled()
        assert asked == []


async def test_children_behind_the_proxy_were_not_counted_in_the_status():
    async with socket() as shop:
        assert (await shop.ask(hello())).connected_children == 1
        other = Socket(shop.edge, connection_id="another-socket")
        await other.open()
        assert (await other.ask(hello(name="shop-2"))).connected_children == 2
        await shop.tell(DISCONNECT)
        assert (await other.ask(hello(name="shop-2"))).connected_children == 1


async def test_a_child_behind_the_proxy_stays_here_when_every_process_ends():
    async with socket() as shop:
        await shop.say(hello())
        await restarted()
        other = Socket(shop.edge, connection_id="another-socket")
        await other.open()
        assert (await other.ask(hello(name="shop-2"))).connected_children == 2


async def test_the_old_socket_of_a_child_ended_late_at_the_proxy_and_the_child_was_shown_gone():
    async with socket() as shop:
        await shop.say(hello())
        new = Socket(shop.edge, connection_id="a-new-socket")
        await new.open()
        await new.say(hello(epoch=6))
        await shop.tell(DISCONNECT)
        assert (await in_thread(Child.objects.get)).state == ConnectionState.HIBERNATING
        await new.tell(DISCONNECT)
        assert (await in_thread(Child.objects.get)).state == ConnectionState.GONE


async def test_a_database_that_is_away_when_a_socket_ends_hurts_nobody(monkeypatch, caplog):
    async with socket() as shop:
        await shop.say(hello())
        monkeypatch.setattr("lakehouse.parent.leases.leave_proxy", _away)
        assert (await shop.tell(DISCONNECT)).events == []
        assert "could not be written: the journal is away" in caplog.text
