import asyncio
import contextlib
import dataclasses
import socket

import pytest
from websockets.asyncio.server import serve

from lakehouse.models import Parent
from rpc import batch
from rpc.circuit import CircuitBreakerRpcConfig
from rpc.circuit_breaker import CircuitBreakerError, CircuitBreakerOptions, CircuitState
from rpc.config import ChildConfig
from rpc.errors import (
    AccessDeniedError,
    BufferOverflowError,
    ConnectionError,
    FlushError,
    OutboxClosedError,
    ProtocolError,
)
from rpc.guarded import create_circuit_breaker_rpc_client
from rpc.messages import AckMessage, AckStatus
from rpc.outcome import ClientState
from rpc.protocol import encode_message
from tests.lakehouse.test_intake import in_thread
from tests.rpc.test_client import change, stored_ids
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)

IMPATIENT = ChildConfig(initial_retry_delay_ms=10, max_retry_delay_ms=20, batch_timeout_ms=20, max_reconnect_attempts=2)
WELCOME = (
    '{"type":"status","timestamp":1,"state":"idle","connectedChildren":1,"resumeSequence":0,'
    '"buffer":{"batchCount":0,"entryCount":0,"totalSizeBytes":0,"utilization":0}}'
)
CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Clock:
    ms = 0.0

    def now(self):
        return self.ms


@pytest.fixture
def clock():
    return Clock()


@contextlib.asynccontextmanager
async def guarded(url, path, clock=None, *, threshold=1, config=IMPATIENT, limits=None, **options):
    circuit = CircuitBreakerRpcConfig(
        circuit_breaker=CircuitBreakerOptions(failure_threshold=threshold), **(limits or {})
    )
    client = create_circuit_breaker_rpc_client(
        url, "shop-1", outbox=path / "o.sqlite3", config=config, circuit=circuit, time_provider=clock, **options
    )
    try:
        yield client
    finally:
        await client.disconnect(timeout_ms=10)
        await client.close()


@contextlib.contextmanager
def a_port(listening=False):
    """A port of this machine that refuses calls, or with `listening` never answers them."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        if listening:
            listener.listen()
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/ws"


@contextlib.contextmanager
def unplugged(server):
    """The port of a stopped server refuses calls until `plug_in`, and stays reserved."""
    port = server.listener.getsockname()[1]
    server.listener.close()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        server.listener = listener
        yield


async def plug_in(server):
    server.listener.listen()
    await server.start()


@contextlib.asynccontextmanager
async def scripted(on_batch, refusals=0):
    """A parent that greets, and does `on_batch(socket, sequence)` with every batch; the first callers it refuses."""
    callers = []

    async def talk(talking):
        await talking.recv()
        await talking.send(WELCOME)
        async for frame in talking:
            if isinstance(frame, bytes):
                await on_batch(talking, batch.read(frame).sequence)

    def look(connection, _request):
        callers.append(connection)
        return connection.respond(403, "no") if len(callers) <= refusals else None

    async with serve(talk, "127.0.0.1", 0, process_request=look, ping_interval=None, close_timeout=0.01) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"


async def says_nothing(talking, sequence):
    pass


def ack(sequence):
    return encode_message(AckMessage(timestamp=1, sequence_number=sequence, status=AckStatus.OK))


async def lost(client):
    while client.state is ClientState.CONNECTED:
        await asyncio.sleep(0.01)


def within(ms):
    return dataclasses.replace(IMPATIENT, pending_batch_ttl_ms=ms)


def kept(client):
    return client.outbox.pending_entries


async def test_a_parent_that_goes_away_opens_the_circuit_and_one_probe_closes_it_when_it_is_back(tmp_path, clock):
    heard = []
    limits = {"on_state_change": lambda old, new: heard.append(new)}
    async with (
        serving() as server,
        guarded(server.url, tmp_path, clock, threshold=2, limits=limits) as client,
    ):
        await client.connect()
        assert (await client.send_batch([change(1)])).success
        await server.stop()
        with unplugged(server):
            await lost(client)
            for _ in range(2):
                assert not client.is_circuit_open
                with pytest.raises(ConnectionError, match="cannot reach"):
                    await client.send_batch([change(2)])
            for refused in (client.connect(), client.send_batch([change(2)]), client.request_flush()):
                with pytest.raises(CircuitBreakerError, match="try again in 1000 ms"):
                    await refused
            assert kept(client) == 0
            await client.send(change(3))
            assert await client.send_many([change(4)]) == 1

            clock.ms += 1000
            with pytest.raises(ConnectionError, match="cannot reach"):
                await client.connect()
            with pytest.raises(CircuitBreakerError, match="try again in 2000 ms"):
                await client.connect()

            await plug_in(server)
            clock.ms += 2000
            outcomes = await asyncio.gather(*(client.connect() for _ in range(3)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [type(None), CircuitBreakerError, CircuitBreakerError]
            assert client.circuit_state is CLOSED
            assert (await client.send_batch([change(5)])).success
            await client.drain()
            assert sorted(await in_thread(stored_ids)) == [1, 3, 4, 5]
            assert heard == [OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED]
            await client.disconnect()
            await server.stop()
            server.listener = socket.create_server(("127.0.0.1", 0))
            await server.start()


async def test_a_batch_that_is_refused_by_the_circuit_may_be_handed_in_again_and_arrives_once(tmp_path, clock):
    heard = []
    limits = {"on_state_change": lambda old, new: heard.append(new)}
    async with serving() as server, guarded(server.url, tmp_path, clock, limits=limits) as client:
        await client.connect()
        client.trip_circuit()
        assert heard == [OPEN]
        changes = (change(number) for number in (1, 2))
        with pytest.raises(CircuitBreakerError):
            await client.send_batch(changes)
        assert kept(client) == 0
        client.reset_circuit()
        assert heard == [OPEN, CLOSED]
        assert (await client.send_batch(changes)).entries == 2
        assert await in_thread(stored_ids) == [1, 2]


async def test_a_wrong_key_does_not_open_the_circuit_and_is_tried_again_by_connect_alone(tmp_path):
    heard = []
    async with (
        serving(open=False) as server,
        guarded(server.url, tmp_path, token="wrong", on_state_change=heard.append) as client,
    ):
        for _ in range(2):
            with pytest.raises(AccessDeniedError, match="the access key is missing, wrong"):
                await client.connect()
        for _ in range(3):
            with pytest.raises(AccessDeniedError, match="the access key is missing, wrong"):
                await client.send_batch([change(1)])
        assert heard == [ClientState.CONNECTING, ClientState.FAILED] * 2
        assert (client.circuit_state, client.get_stats().total_failures, kept(client)) == (CLOSED, 0, 0)


async def test_a_key_that_was_mended_is_not_held_against_the_next_call_that_finds_no_connection(tmp_path):
    async def closes(talking, sequence):
        await talking.close(1001)

    config = dataclasses.replace(IMPATIENT, auto_reconnect=False)
    async with scripted(closes, refusals=1) as url, guarded(url, tmp_path, threshold=5, config=config) as client:
        with pytest.raises(AccessDeniedError):
            await client.connect()
        await client.connect()
        for _ in range(2):
            assert (await client.send_batch([change(1)])).kept
            assert client.state is ClientState.FAILED


async def test_an_error_of_the_callers_own_entries_is_raised_and_not_counted(tmp_path):
    config = dataclasses.replace(IMPATIENT, outbox_bytes_max=200_000)
    async with serving() as server, guarded(server.url, tmp_path, config=config) as client:
        await client.connect()
        with pytest.raises(ProtocolError, match="wanted INSERT, UPDATE or DELETE"):
            await client.send_batch([{"op": "UPSERT", "table": "t"}])
        with pytest.raises(BufferOverflowError):
            await client.send_batch([{"op": "INSERT", "table": "t", "data": {"v": "x" * 300_000}}])
        stats = client.get_stats()
        assert (stats.state, stats.total_failures, stats.total_successes) == (CLOSED, 0, 1)


async def test_a_batch_the_parent_refuses_for_good_shows_that_it_is_there(tmp_path, clock):
    await in_thread(
        lambda: Parent.objects.create(name="default", config={"flush_threshold_entries": 1, "max_buffer_entries": 2})
    )
    async with serving() as server, guarded(server.url, tmp_path, clock) as client:
        await client.connect()
        client.trip_circuit()
        clock.ms += 1000
        result = await client.send_batch([change(number) for number in range(3)])
        assert (result.success, result.kept) == (False, False)
        assert client.circuit_state is CLOSED


async def test_a_flush_the_parent_cannot_do_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("lakehouse.parent.flush_requests.WAIT_MS_MAX", 200)
    async with serving() as server, guarded(server.url, tmp_path) as client:
        await client.connect()
        await client.send(change(1))
        with pytest.raises(FlushError, match="Is a worker running"):
            await client.request_flush()
        assert client.is_circuit_open


async def test_stats_tell_of_the_circuit_and_of_the_client(tmp_path):
    async with serving() as server, guarded(server.url, tmp_path) as client:
        await client.connect()
        await client.send_batch([change(1)])
        client.trip_circuit()
        with pytest.raises(CircuitBreakerError):
            await client.connect()
        stats = client.get_stats()
        assert (stats.state, stats.total_successes, stats.rejected, stats.child_id) == (OPEN, 2, 1, "shop-1")
        assert (stats.client.state, stats.client.acked_batches) == (ClientState.CONNECTED, 1)


async def test_a_cancelled_probe_lets_the_next_one_through(tmp_path, clock):
    with a_port(listening=True) as url:
        async with guarded(url, tmp_path, clock, limits={"call_timeout_ms": 30}) as client:
            client.trip_circuit()
            clock.ms += 1000
            probe = asyncio.create_task(client.connect())
            while client.state is not ClientState.CONNECTING:
                await asyncio.sleep(0)
            with pytest.raises(CircuitBreakerError, match="its probe is under way"):
                await client.connect()
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)
            assert (client.circuit_state, client.get_stats().total_failures) == (HALF_OPEN, 0)
            with pytest.raises(ConnectionError, match="no connection within 30 ms"):
                await client.connect()
            assert client.is_circuit_open


async def test_a_call_that_finds_no_connection_in_time_keeps_nothing(tmp_path, clock):
    with a_port(listening=True) as url:
        async with guarded(url, tmp_path, clock, threshold=2, limits={"call_timeout_ms": 30}) as client:
            with pytest.raises(ConnectionError, match="no connection within 30 ms"):
                await client.connect()
            with pytest.raises(ConnectionError, match="nothing of this call was kept"):
                await client.send_batch([change(1)])
            assert (kept(client), client.circuit_state) == (0, OPEN)


async def test_a_parent_that_answers_no_batch_is_away_however_often_connect_finds_it(tmp_path):
    async with scripted(says_nothing) as url, guarded(url, tmp_path, threshold=2, config=within(30)) as client:
        for number in range(2):
            await client.connect()
            result = await client.send_batch([change(number)])
            assert (result.success, result.kept) == (False, True)
        assert client.is_circuit_open
        assert kept(client) == 2


async def test_a_parent_with_a_backlog_before_it_is_slow_and_not_away(tmp_path):
    async def acks_the_one_before(talking, sequence):
        if sequence > 1:
            await talking.send(ack(sequence - 1))

    async with scripted(acks_the_one_before) as url, guarded(url, tmp_path, config=within(1000)) as client:
        await client.connect()
        await client.send(change(1))
        while client.get_stats().client.messages_sent == 0:
            await asyncio.sleep(0.01)
        assert (await client.send_batch([change(2)])).kept
        assert (client.circuit_state, client.get_stats().total_failures) == (CLOSED, 0)


@pytest.mark.parametrize(("code", "state"), [(1001, OPEN), (1008, CLOSED)])
async def test_a_connection_that_ends_for_good_leaves_the_batch_in_the_outbox_and_says_so(tmp_path, code, state):
    async def closes(talking, sequence):
        await talking.close(code)

    config = dataclasses.replace(IMPATIENT, auto_reconnect=False)
    async with scripted(closes) as url, guarded(url, tmp_path, config=config) as client:
        await client.connect()
        result = await client.send_batch([change(1), change(2)])
        assert (result.success, result.kept, result.entries) == (False, True, 2)
        assert "do not hand them in again" in result.error
        assert (kept(client), client.circuit_state) == (2, state)


async def test_frames_the_parent_finds_too_big_are_no_outage_and_the_batch_stays(tmp_path):
    async def closes(talking, sequence):
        await talking.close(1009)

    async with scripted(closes) as url, guarded(url, tmp_path) as client:
        await client.connect()
        result = await client.send_batch([change(1)])
        assert (result.kept, kept(client), client.circuit_state) == (True, 1, CLOSED)
        assert "lower max_batch_bytes" in result.error


async def test_a_flush_that_is_not_answered_in_time_is_a_failure(tmp_path):
    async with scripted(says_nothing) as url, guarded(url, tmp_path, limits={"flush_timeout_ms": 30}) as client:
        await client.connect()
        with pytest.raises(FlushError, match="not flushed within 30 ms"):
            await client.request_flush()
        assert client.is_circuit_open


async def test_a_flush_that_waits_behind_a_backlog_is_slow_and_not_a_failure(tmp_path):
    async def acks(talking, sequence):
        await talking.send(ack(sequence))

    async with scripted(acks) as url, guarded(url, tmp_path, limits={"flush_timeout_ms": 1000}) as client:
        await client.connect()
        await client.send(change(1))
        with pytest.raises(FlushError, match="not flushed within 1000 ms"):
            await client.request_flush()
        assert (client.circuit_state, client.get_stats().total_failures) == (CLOSED, 0)


async def test_a_flush_dials_again_when_the_client_had_given_up(tmp_path):
    heard = []
    with a_port() as url:
        async with guarded(url, tmp_path, threshold=5, on_state_change=heard.append) as client:
            for call in (client.connect, client.request_flush):
                with pytest.raises(ConnectionError, match="cannot reach"):
                    await call()
            assert heard == [ClientState.CONNECTING, ClientState.FAILED] * 2


async def test_our_own_disconnect_is_no_failure_of_those_who_wait(tmp_path):
    async with scripted(says_nothing) as url, guarded(url, tmp_path) as client:
        await client.connect()
        waiting = asyncio.create_task(client.send_batch([change(1)]))
        while client.get_stats().client.messages_sent == 0:
            await asyncio.sleep(0.01)
        await client.disconnect(timeout_ms=10)
        assert (await waiting).kept
        assert (client.circuit_state, client.get_stats().total_failures) == (CLOSED, 0)


async def test_our_own_disconnect_is_no_failure_of_a_connect_under_way(tmp_path):
    with a_port(listening=True) as url:
        async with guarded(url, tmp_path) as client:
            connecting = asyncio.create_task(client.connect())
            while client.get_stats().client.reconnect_attempts == 0:
                await asyncio.sleep(0)
            await client.disconnect(timeout_ms=10)
            with pytest.raises(ConnectionError, match="connect"):
                await connecting
            assert (client.circuit_state, client.get_stats().total_failures) == (CLOSED, 0)


async def test_what_needs_the_parent_says_at_once_that_nobody_connected(tmp_path):
    with a_port() as url:
        async with guarded(url, tmp_path) as client:
            with pytest.raises(ConnectionError, match=r"call connect\(\) first, or send_many\(\)"):
                await client.send_batch([change(1)])
            with pytest.raises(ConnectionError, match=r"call connect\(\) first"):
                await client.request_flush()
            assert (kept(client), client.circuit_state) == (0, CLOSED)
            await client.send(change(1))
            assert kept(client) == 1


async def test_a_batch_is_waited_for_as_told(tmp_path):
    async def acks(talking, sequence):
        await talking.send(ack(sequence))

    async with scripted(acks) as url, guarded(url, tmp_path) as client:
        await client.connect()
        assert (await client.send_batch([change(1)])).status is AckStatus.OK
        result = await client.send_batch([change(2)], wait="persisted")
        assert "the batch is durable, but this parent does not say" in result.error
        assert (kept(client), client.circuit_state) == (0, CLOSED)


async def test_a_circuit_that_is_switched_off_lets_everything_through(tmp_path):
    with a_port() as url:
        async with guarded(url, tmp_path, limits={"enabled": False}) as client:
            for _ in range(3):
                with pytest.raises(ConnectionError, match="cannot reach"):
                    await client.connect()
            client.trip_circuit()
            assert not client.is_circuit_open


async def test_async_with_that_finds_no_parent_closes_the_outbox(tmp_path):
    with a_port() as url:
        client = create_circuit_breaker_rpc_client(url, "shop-1", outbox=tmp_path / "o.sqlite3", config=IMPATIENT)
        with pytest.raises(ConnectionError, match="cannot reach"):
            async with client:
                pass
        with pytest.raises(OutboxClosedError, match="sqlite3 is closed"):
            _ = client.outbox.epoch


async def test_async_with_connects_and_closes(tmp_path):
    async with serving() as server:
        client = create_circuit_breaker_rpc_client(server.url, "shop-1", outbox=tmp_path / "o.sqlite3")
        async with client:
            assert (await client.send_batch([change(1)])).success
            assert client.status()["connected"]
            assert "dosql_dolake_connected 1" in client.metrics_text()
        assert client.state is ClientState.DISCONNECTED
