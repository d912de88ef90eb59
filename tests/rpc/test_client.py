import asyncio
import contextlib
import dataclasses
import json
import sqlite3
from contextlib import closing

import pytest
from websockets.asyncio.server import serve

from lakehouse.catalog.lakes import chosen
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import Batch, BatchPayload, Child, FlushTable, Parent
from lakehouse.parent import access
from lakehouse.query import duck
from rpc import clock, columns
from rpc.capture.continuity import FileReplacedError
from rpc.capture.sqlite import SqliteCapture
from rpc.client import LakehouseRpcClient
from rpc.config import ChildConfig
from rpc.create import create_rpc_client
from rpc.errors import (
    AccessDeniedError,
    BufferOverflowError,
    ConnectionError,
    FlushError,
    LakehouseRpcError,
    OutboxClosedError,
    ProtocolError,
)
from rpc.handlers import Handlers
from rpc.messages import AckStatus, WalEntry, WalOperation
from rpc.outbox import Outbox, OutboxBusyError
from rpc.outcome import ClientState
from tests.builders import NOW_MS
from tests.lakehouse.test_intake import in_thread
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)

IMPATIENT = ChildConfig(initial_retry_delay_ms=10, max_retry_delay_ms=20, batch_timeout_ms=20, max_reconnect_attempts=3)
PATIENT = ChildConfig(initial_retry_delay_ms=10, max_retry_delay_ms=20, batch_timeout_ms=20, max_reconnect_attempts=0)


def change(number, operation="INSERT"):
    return {"op": operation, "table": "orders", "data": {"id": number, "total": number * 1.5}}


def wal(**fields):
    known = {"sequence": 0, "timestamp": 1, "operation": WalOperation.INSERT, "table": "t", "row_id": "1"}
    return WalEntry(**known | fields)


def stored():
    return sum(batch.entries for batch in Batch.objects.all())


def stored_ids():
    payloads = [bytes(row.payload) for row in BatchPayload.objects.order_by("pk")]
    return [json.loads(entry.after)["id"] for payload in payloads for entry in columns.decode(payload).entries()]


async def small_parent(**limits):
    await in_thread(lambda: Parent.objects.create(name="default", config={"flush_threshold_entries": 1} | limits))


@contextlib.asynccontextmanager
async def child(server, path, *, config=PATIENT, **options):
    client = LakehouseRpcClient(server.url, "shop-1", outbox=path / "outbox.sqlite3", config=config, **options)
    try:
        yield client
    finally:
        await client.close()


async def test_what_was_sent_is_durable_at_the_parent_after_drain(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        await client.send(change(1))
        assert await client.send_many([change(2), change(3)]) == 2
        await client.drain()
        assert await in_thread(stored) == 3
        stats = client.get_stats()
        assert (stats.state, stats.connected, stats.pending_batches) == (ClientState.CONNECTED, True, 0)
        assert stats.last_ack_sequence == stats.last_sequence
        assert await in_thread(lambda: Child.objects.get().name) == "shop-1"


async def test_a_child_may_have_any_printable_name(tmp_path):
    async with serving() as server:
        client = LakehouseRpcClient(server.url, "Zürich/Laden 7 ✓", outbox=tmp_path / "o.sqlite3", config=PATIENT)
        await client.connect()
        await client.send_batch([change(1)])
        await client.close()
    assert await in_thread(lambda: Child.objects.get().name) == "Zürich/Laden 7 ✓"


async def test_a_batch_that_does_not_fill_up_leaves_after_its_timeout(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        await client.send(change(1))
        while client.get_stats().acked_batches == 0:
            await asyncio.sleep(0.01)
        assert await in_thread(stored) == 1


async def test_send_batch_says_what_became_of_it(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        result = await client.send_batch([change(1), change(2)])
        assert (result.success, result.sequence_numbers, result.entries, result.status) == (True, [1], 2, AckStatus.OK)


async def test_what_is_sent_without_a_connection_goes_out_with_the_next_one(tmp_path):
    async with serving() as server:
        async with child(server, tmp_path) as client:
            await client.send_many([change(number) for number in range(5)])
        assert await in_thread(stored) == 0
        async with child(server, tmp_path) as client:
            await client.connect()
            await client.drain()
        assert await in_thread(stored) == 5


async def test_a_parent_that_goes_away_and_comes_back_gets_everything_once(tmp_path):
    async with serving() as server, child(server, tmp_path, config=PATIENT) as client:
        await client.connect()
        for number in range(20):
            await client.send(change(number))
            if number == 10:
                await server.stop()
            if number == 15:
                await server.start()
        await client.drain()
        assert client.get_stats().reconnects >= 1
        assert await in_thread(stored) == 20


async def test_a_file_from_a_backup_begins_a_new_epoch_and_loses_nothing(tmp_path):
    async with serving() as server:
        path = tmp_path / "outbox.sqlite3"
        Outbox(path).close()
        backup = path.read_bytes()
        async with child(server, tmp_path) as client:
            await client.connect()
            for number in range(3):
                await client.send_batch([change(number)])
        path.write_bytes(backup)
        async with child(server, tmp_path) as client:
            before = client.outbox.epoch
            await client.send_many([change(100)])
            await client.connect()
            await client.drain()
            assert client.outbox.epoch > before
        assert await in_thread(stored) == 4


async def test_a_backup_restored_into_a_captured_database_that_is_connected_loses_nothing(tmp_path):
    path = tmp_path / "app.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as app, closing(sqlite3.connect(":memory:")) as backup:
        app.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        changes = SqliteCapture(path)
        await asyncio.to_thread(changes.attach)
        async with serving() as server:
            client = LakehouseRpcClient(server.url, "shop-1", outbox=changes, config=PATIENT)
            await client.connect()
            app.backup(backup)
            for number in range(5):
                app.execute("INSERT INTO t VALUES (?)", [number])
                await client.drain()
            backup.backup(app)
            for number in range(100, 107):
                app.execute("INSERT INTO t VALUES (?)", [number])
                await client.drain()
            assert client.get_stats().reconnects == 1
            await client.close()
            assert await in_thread(stored) == 12


async def test_a_file_in_the_place_of_a_captured_database_is_said(tmp_path):
    path = tmp_path / "app.sqlite3"
    with closing(sqlite3.connect(path)) as app, closing(sqlite3.connect(tmp_path / "copy")) as copy:
        app.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        with SqliteCapture(path) as changes:
            await asyncio.to_thread(changes.attach)
            app.backup(copy)
            copy.execute("INSERT INTO t VALUES (1)")
            copy.commit()
            path.rename(tmp_path / "away")
            assert not changes.changed()
            (tmp_path / "copy").rename(path)
            with pytest.raises(FileReplacedError, match="start capture again"):
                changes.uncut_entries()
        with SqliteCapture(path) as changes:
            assert changes.uncut_entries() == 1


async def test_a_full_parent_is_waited_for(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await in_thread(
            lambda: Parent.objects.create(
                name="default", config={"flush_threshold_entries": 1, "max_buffer_entries": 2}
            )
        )
        await client.connect()
        await client.send_batch([change(1), change(2)])
        sending = asyncio.create_task(client.send_batch([change(3)]))
        while client.get_stats().refused_batches == 0:
            await asyncio.sleep(0.01)
        await in_thread(lambda: Parent.objects.update(pending_entries=0, pending_bytes=0))
        assert (await sending).success
        assert await in_thread(stored) == 3


async def test_a_batch_the_parent_refuses_for_good_becomes_a_dead_letter(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await small_parent(max_buffer_entries=2)
        await client.connect()
        result = await client.send_batch([change(1), change(2), change(3)])
        assert not result.success
        assert "never takes more than 2 entries" in result.error
        [letter] = client.outbox.dead_letters()
        assert letter.entries == 3
        assert (await client.send_batch([change(4)])).success


async def test_a_table_name_the_lake_cannot_have_is_refused_before_it_is_kept(tmp_path):
    client = create_rpc_client("ws://127.0.0.1:9/ws", "shop-1", outbox=tmp_path / "o.sqlite3")
    with pytest.raises(ProtocolError, match="table name 'my table'"):
        await client.send_many([change(1), {"op": "INSERT", "table": "my table", "data": {}}])
    assert client.get_stats().batch_buffer_size == 0
    await client.close()


async def test_a_backup_restored_after_a_refused_batch_loses_nothing(tmp_path):
    """A refused batch leaves a gap below which the parent's resume sequence stays."""
    path, backup = tmp_path / "outbox.sqlite3", tmp_path / "backup.sqlite3"
    async with serving() as server:
        await small_parent(max_buffer_entries=8)
        async with child(server, tmp_path) as client:
            await client.connect()
            await client.send_batch([change(1)])
            assert not (await client.send_batch([change(number) for number in range(9)])).success
            await client.send_batch([change(2)])
        backup.write_bytes(path.read_bytes())
        async with child(server, tmp_path) as client:
            await client.connect()
            for number in (3, 4):
                await client.send_batch([change(number)])
        path.write_bytes(backup.read_bytes())
        async with child(server, tmp_path) as client:
            await client.send_many([change(1001)])
            await client._depot.cut()
            await client.send_many([change(1002), change(1003)])
            await client._depot.cut()
            await client.connect()
            await client.drain()
            assert not client.outbox.unacked()
    assert await in_thread(stored_ids) == [1, 2, 3, 4, 1001, 1002, 1003]


async def test_send_and_send_batch_from_many_tasks_leave_no_batch_behind(tmp_path):
    config = dataclasses.replace(PATIENT, max_batch_size=20)
    async with serving() as server, child(server, tmp_path, config=config) as client:
        await client.connect()

        async def sender():
            for number in range(150):
                await client.send(change(number))

        async def batcher(size):
            for _ in range(30):
                assert (await client.send_batch([change(number) for number in range(size)])).success

        async with asyncio.timeout(60):
            await asyncio.gather(sender(), sender(), batcher(3), batcher(50))
            await client.drain()
        await in_thread(lambda: None)
        assert await in_thread(stored) == 2 * 150 + 30 * 53


async def test_a_flush_that_is_waited_for_ends_with_the_connection(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        await client.send(change(1))
        flushing = asyncio.create_task(client.request_flush())
        while not server.asked:
            await asyncio.sleep(0.01)
        await client.disconnect()
        with pytest.raises(ConnectionError, match="before the flush was answered"):
            await flushing


async def test_a_parent_that_is_frozen_is_left_after_the_ack_timeout(tmp_path):
    dials = []

    async def greet_and_freeze(socket):
        dials.append(socket)
        await socket.recv()
        await socket.send(
            '{"type":"status","timestamp":1,"state":"idle","connectedChildren":1,"resumeSequence":0,'
            '"buffer":{"batchCount":0,"entryCount":0,"totalSizeBytes":0,"utilization":0}}'
        )
        socket.transport.pause_reading()
        await socket.wait_closed()

    config = dataclasses.replace(PATIENT, ack_timeout_ms=200, max_batch_bytes=1_000_000)
    async with serve(greet_and_freeze, "127.0.0.1", 0, ping_interval=None, close_timeout=0.01) as frozen:
        url = f"ws://127.0.0.1:{frozen.sockets[0].getsockname()[1]}/ws"
        client = LakehouseRpcClient(url, "shop-1", outbox=tmp_path / "o.sqlite3", config=config)
        await client.connect()
        await client.send_many([{"op": "INSERT", "table": "t", "data": {"v": "x" * 900_000}} for _ in range(12)])
        while len(dials) < 2:
            await asyncio.sleep(0.01)
        await client.disconnect(timeout_ms=10)
        await client.close()


async def test_a_token_read_from_a_file_with_its_newline_works_and_is_never_shown(tmp_path):
    _, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
    async with serving(open=False) as server:
        async with child(server, tmp_path, token=token + "\n") as client:
            await client.connect()
        async with child(server, tmp_path, token="evodb_sec\nret") as client:
            with pytest.raises(AccessDeniedError) as caught:
                await client.connect()
            assert "ret" not in str(caught.value).replace("parent", "")
        client = LakehouseRpcClient(
            "ws://127.0.0.1:9/ws?token=evodb_secret", "s", outbox=tmp_path / "2", config=IMPATIENT
        )
        with pytest.raises(ConnectionError) as unreachable:
            await client.connect()
        assert "evodb_secret" not in str(unreachable.value)
        await client.close()


async def test_a_wrong_token_is_said_at_once_and_plainly(tmp_path):
    async with serving(open=False) as server, child(server, tmp_path, token="wrong") as client:
        with pytest.raises(AccessDeniedError, match="HTTP 401: the access key is missing, wrong or not meant"):
            await client.connect()
        assert client.state is ClientState.FAILED


async def test_a_key_for_another_child_is_said_plainly(tmp_path):
    _, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], source_pattern="bank-*", now_ms=NOW_MS))
    async with serving(open=False) as server, child(server, tmp_path, token=token) as client:
        with pytest.raises(AccessDeniedError):
            await client.connect()


async def test_the_token_is_in_no_text_of_the_client(tmp_path):
    async with serving(open=False) as server, child(server, tmp_path, token="evodb_secret") as client:
        with pytest.raises(AccessDeniedError) as caught:
            await client.connect()
        assert "evodb_secret" not in f"{caught.value!r} {client!r} {client._keeper!r}"


async def test_a_parent_that_is_not_there_is_given_up_after_all_attempts_and_the_outbox_keeps_everything(tmp_path):
    async with serving() as server:
        await server.stop()
        dead_url = "ws://127.0.0.1:9/ws"
        client = LakehouseRpcClient(dead_url, "shop-1", outbox=tmp_path / "o.sqlite3", config=IMPATIENT)
        await client.send(change(1))
        with pytest.raises(ConnectionError, match="cannot reach ws://127"):
            await client.connect()
        with pytest.raises(ConnectionError):
            await client.drain()
        assert client.get_stats().pending_batches == 1
        assert client.get_stats().error.startswith("ConnectionError: cannot reach ws://127")
        await client.close()
        await server.start()


async def test_an_address_that_is_none_is_said_plainly(tmp_path):
    client = LakehouseRpcClient("http//nowhere", "shop-1", outbox=tmp_path / "o.sqlite3", config=IMPATIENT)
    with pytest.raises(AccessDeniedError, match="wanted ws://"):
        await client.connect()
    await client.close()


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"table": "t"}, "operation None, wanted text"),
        ({"op": "UPSERT", "table": "t"}, "wanted INSERT, UPDATE or DELETE"),
        ({"op": "INSERT"}, "table None, wanted text"),
        ({"op": "INSERT", "table": "t", "dta": {}}, "unknown field 'dta'"),
        ({"op": "INSERT", "table": "t", "timestamp": -1}, "wanted milliseconds since 1970"),
        ({"op": "INSERT", "table": "t", "data": object()}, "cannot be written as JSON"),
        ({"op": "INSERT", "table": "t", "metadata": 5}, "wanted an object"),
        ({"op": "INSERT", "operation": "UPDATE", "table": "t"}, "op and operation, which mean the same"),
        ({"op": "INSERT", "table": "t", "rowId": "a", "row_id": "b"}, "rowId and row_id, which mean the same"),
        ({"op": "INSERT", "table": "t", "data": {}, "after": {}}, "data and after, the same in INSERT"),
        ({"op": "DELETE", "table": "t", "data": {}, "before": {}}, "data and before, the same in DELETE"),
        (wal(operation="insert"), "operation 'insert', wanted INSERT, UPDATE or DELETE"),
        (wal(row_id=7), "row_id 7, wanted text"),
        (wal(table=None), "table None, wanted text"),
        (wal(timestamp="now"), "timestamp 'now', wanted milliseconds"),
        (wal(metadata=5), "metadata 5, wanted an object"),
    ],
)
async def test_an_entry_that_is_none_is_refused_and_nothing_of_the_call_is_kept(tmp_path, entry, complaint):
    client = create_rpc_client("ws://127.0.0.1:9/ws", "shop-1", outbox=tmp_path / "o.sqlite3")
    with pytest.raises(ProtocolError, match=complaint):
        await client.send_many([change(1), entry])
    assert client.get_stats().batch_buffer_size == 0
    await client.close()


@pytest.mark.parametrize("one", [change(1), wal(), "change", b"change"])
async def test_one_entry_in_the_place_of_a_list_is_said(tmp_path, one):
    client = create_rpc_client("ws://127.0.0.1:9/ws", "shop-1", outbox=tmp_path / "o.sqlite3")
    for call in (client.send_many, client.send_batch):
        with pytest.raises(ProtocolError, match=r"is one entry at most, wanted a list of entries"):
            await call(one)
    await client.close()


async def test_a_word_for_wait_that_nobody_knows_is_refused_with_nothing_kept(tmp_path):
    client = create_rpc_client("ws://127.0.0.1:9/ws", "shop-1", outbox=tmp_path / "o.sqlite3")
    with pytest.raises(ValueError, match="wait is 'persistent', wanted 'durable' or 'persisted'; nothing was kept"):
        await client.send_batch([change(1)], wait="persistent")
    assert client.get_stats().batch_buffer_size == 0
    await client.close()


async def test_a_flush_without_a_worker_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("lakehouse.parent.flush_requests.WAIT_MS_MAX", 200)
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        await client.send(change(1))
        with pytest.raises(FlushError, match="Is a worker running"):
            await client.request_flush()
        assert [trigger for _, trigger in server.asked] == ["manual"]


async def test_disconnect_leaves_no_task_behind_and_may_be_called_twice(tmp_path):
    async with serving() as server:
        before = asyncio.all_tasks()
        client = LakehouseRpcClient(server.url, "shop-1", outbox=tmp_path / "o.sqlite3", config=PATIENT)
        await client.connect()
        await client.send(change(1))
        await client.disconnect()
        await client.disconnect()
        assert client.state is ClientState.DISCONNECTED
        assert {task for task in asyncio.all_tasks() - before if "LakehouseRpcClient" in repr(task)} == set()
        await client.connect()
        assert (await client.send_batch([change(2)])).success
        await client.close()
    assert await in_thread(stored) == 2


def flush(server):
    flusher = Flusher("worker", server.settings, chosen(server.settings), clock.now_ms)
    flusher.run(Parent.objects.get().pk, trigger=FlushTrigger.MANUAL)


async def test_send_batch_returns_when_it_is_in_the_table_if_that_is_waited_for(tmp_path, lake_settings):
    async with serving(data_dir=lake_settings.data_dir) as server, child(server, tmp_path) as client:
        await client.connect()
        sending = asyncio.create_task(client.send_batch([change(1), change(2)], wait="persisted"))
        while not server.house.persisted.waiting:
            await asyncio.sleep(0.01)
        assert not sending.done()
        await in_thread(lambda: flush(server))
        result = await sending
        assert (result.success, result.status, result.entries) == (True, AckStatus.PERSISTED, 2)
        assert result.path == await in_thread(lambda: FlushTable.objects.get().metadata_location)
        assert not server.house.persisted.waiting


async def test_a_reconnect_does_not_lose_the_wait_for_the_table(tmp_path, lake_settings):
    async with serving(data_dir=lake_settings.data_dir) as server, child(server, tmp_path) as client:
        await client.connect()
        sending = asyncio.create_task(client.send_batch([change(1)], wait="persisted"))
        while not server.house.persisted.waiting:
            await asyncio.sleep(0.01)
        await server.stop()
        await in_thread(lambda: flush(server))
        await server.start()
        assert (await sending).status is AckStatus.PERSISTED


async def test_waiting_for_the_table_ends_with_disconnect_and_says_the_batch_is_safe(tmp_path, lake_settings):
    async with serving(data_dir=lake_settings.data_dir) as server, child(server, tmp_path) as client:
        await client.connect()
        sending = asyncio.create_task(client.send_batch([change(1)], wait="persisted"))
        while not server.house.persisted.waiting:
            await asyncio.sleep(0.01)
        await client.disconnect()
        result = await sending
        assert (result.success, result.kept, result.status) == (False, True, AckStatus.OK)
        assert result.error.startswith("disconnected")
        while server.house.persisted.waiting:
            await asyncio.sleep(0.01)


async def test_send_batch_without_an_answer_says_that_the_outbox_keeps_it(tmp_path):
    config = dataclasses.replace(PATIENT, pending_batch_ttl_ms=50)
    async with serving() as server, child(server, tmp_path, config=config) as client:
        await client.connect()
        await server.stop()
        result = await client.send_batch([change(1)])
        assert (result.success, result.kept, result.status) == (False, True, None)
        assert result.error == "no answer within 50 ms; the outbox keeps the entries and goes on sending them"
        await server.start()
        await client.drain()
        assert await in_thread(stored) == 1


@pytest.mark.parametrize("encoding", ["columns", "msgpack", "arrow"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_what_both_sides_know_travels_and_arrives_whole(tmp_path, lake_settings, encoding, compression):
    config = dataclasses.replace(PATIENT, encoding=encoding, compression=compression)
    async with (
        serving(data_dir=lake_settings.data_dir) as server,
        child(server, tmp_path, config=config) as client,
    ):
        await client.connect()
        await client.send_batch([change(number) for number in range(200)])
        await in_thread(lambda: flush(server))
        stats = client.get_stats()
    location = await in_thread(lambda: FlushTable.objects.get().metadata_location)
    with duck.connect(server.settings) as lake:
        rows = lake.execute(f"SELECT id, total FROM {duck.scan(location)} ORDER BY id").fetchall()
    assert rows == [(number, number * 1.5) for number in range(200)]
    assert (stats.bytes_sent < 8000) == (compression == "zstd")


async def test_a_full_outbox_makes_send_wait_for_the_next_acks_if_told_so(tmp_path):
    config = dataclasses.replace(PATIENT, outbox_when_full="wait", outbox_bytes_max=20_000)
    async with serving() as server, child(server, tmp_path, config=config) as client:
        waiting = asyncio.create_task(client.send_many([change(number) for number in range(100)]))
        await waiting
        waiting = asyncio.create_task(client.send_many([change(number) for number in range(250)]))
        await asyncio.wait([waiting], timeout=0.05)
        assert not waiting.done()
        await client.connect()
        assert await waiting == 250
        await client.drain()
        assert await in_thread(stored) == 350


async def test_more_than_the_outbox_can_ever_hold_is_an_error_even_for_who_waits(tmp_path):
    config = dataclasses.replace(PATIENT, outbox_when_full="wait", outbox_bytes_max=20_000)
    async with serving() as server, child(server, tmp_path, config=config) as client:
        with pytest.raises(BufferOverflowError):
            await client.send_many([change(number) for number in range(2000)])


async def test_a_batch_that_is_full_by_its_bytes_leaves_at_once(tmp_path):
    config = dataclasses.replace(PATIENT, batch_timeout_ms=3_600_000, max_batch_bytes=10_000)
    async with serving() as server, child(server, tmp_path, config=config) as client:
        await client.connect()
        await client.send(change(0))
        for number in range(5):
            await client.send({"op": "INSERT", "table": "t", "data": {"id": number, "text": "x" * 4000}})
        while not await in_thread(stored):
            await asyncio.sleep(0.01)
        await client.drain()


async def test_the_numbers_of_a_client_have_the_names_of_both_guides(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        await client.send_batch([change(1)])
        assert client.status() == {
            "connected": True,
            "last_ack_sequence": 1,
            "pending_batches": 0,
            "retry_queue_length": 0,
            "buffer_size": 0,
        }
        lines = client.metrics_text().splitlines()
        assert "dosql_dolake_connected 1" in lines
        assert "dosql_pending_acks 0" in lines
        assert "evodb_child_acked_batches_total 1" in lines
        names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
        assert names == [line.split()[0] for line in lines if not line.startswith("#")]


async def test_the_same_batch_sent_twice_reaches_the_parent_once(tmp_path):
    batch = [{"op": "INSERT", "table": "orders", "data": {"id": 1}, "lsn": 41}, change(2) | {"lsn": 42}]
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        await client.send_batch(batch)
        again = await client.send_batch(batch)
        assert (again.success, again.sequence_numbers) == (True, [])
        assert await client.send_many([*batch, change(3)]) == 1
        await client.drain()
        assert client.get_stats().last_ack_lsn == 42
    assert sorted(await in_thread(stored_ids)) == [1, 2, 3]


async def test_what_is_handed_in_again_before_its_answer_is_waited_for_and_not_called_durable(tmp_path):
    batch = [change(1) | {"lsn": 41}]
    config = dataclasses.replace(PATIENT, pending_batch_ttl_ms=50)
    async with serving() as server, child(server, tmp_path, config=config) as client:
        for _ in range(2):
            result = await client.send_batch(batch)
            assert (result.success, result.kept, result.sequence_numbers) == (False, True, [1])
        both = asyncio.gather(client.send_batch(batch), client.send_batch(batch))
        await client.connect()
        assert {result.success for result in await both} == {True}
        again = await client.send_batch(batch)
        assert (again.success, again.status, again.sequence_numbers) == (True, AckStatus.DUPLICATE, [])


async def test_what_is_handed_in_again_and_is_in_its_table_says_so_when_that_is_waited_for(tmp_path, lake_settings):
    batch = [change(1) | {"lsn": 41}]
    async with serving(data_dir=lake_settings.data_dir) as server, child(server, tmp_path) as client:
        await client.connect()
        await client.send_batch(batch)
        waiting = asyncio.create_task(client.send_batch(batch, wait="persisted"))
        while not server.house.persisted.waiting:
            await asyncio.sleep(0.01)
        assert not waiting.done()
        await in_thread(lambda: flush(server))
        result = await waiting
        assert (result.success, result.status, result.sequence_numbers) == (True, AckStatus.PERSISTED, [])


async def test_what_the_parent_refused_is_not_called_durable_when_it_is_handed_in_again(tmp_path):
    batch = [change(number) | {"lsn": number} for number in range(3)]
    async with serving() as server, child(server, tmp_path) as client:
        await small_parent(max_buffer_entries=2)
        await client.connect()
        assert not (await client.send_batch(batch)).success
        again = await client.send_batch([*batch, change(4)])
        assert (again.success, again.kept) == (False, False)
        assert "refused before as batch 1" in again.error
        assert "outbox.revive(1) sends it again" in again.error
        assert len(client.outbox.dead_letters()) == 1


async def test_changes_without_lsn_are_never_taken_for_one_another(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        for _ in range(2):
            await client.send_batch([change(1)])
    assert await in_thread(stored_ids) == [1, 1]


async def test_what_send_batch_raises_has_kept_nothing(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        with Outbox(tmp_path / "outbox.sqlite3") as other:
            other.unacked()
            with pytest.raises(OutboxBusyError):
                await client.send_batch([change(1)])
        assert client.get_stats().batch_buffer_size == 0


async def test_a_disk_that_is_full_at_the_cut_does_not_double_what_is_kept(tmp_path, monkeypatch):
    config = dataclasses.replace(PATIENT, outbox_when_full="wait")
    async with serving() as server, child(server, tmp_path, config=config) as client:

        def full(**_):
            raise BufferOverflowError("disk is full")

        monkeypatch.setattr(client.outbox, "cut", full)
        result = await client.send_batch([change(1)])
        assert (result.success, result.kept) == (False, True)
        assert client.get_stats().batch_buffer_size == 1


async def test_batches_larger_than_a_message_may_be_are_cut_smaller(tmp_path):
    config = dataclasses.replace(PATIENT, max_batch_bytes=32 * 2**20)
    async with serving(intake_bytes_max=64 * 2**20) as server, child(server, tmp_path, config=config) as client:
        await client.connect()
        rows = [{"op": "INSERT", "table": "t", "data": {"id": n, "text": "x" * 1_000_000}} for n in range(20)]
        result = await client.send_batch(rows)
        assert (result.success, result.sequence_numbers) == (True, [1, 2])
        assert client.outbox.dead_letters() == []


async def test_low_water_is_told_when_the_outbox_has_been_drained(tmp_path):
    told = []
    handlers = Handlers(on_high_water=lambda _: told.append("high"), on_low_water=lambda _: told.append("low"))
    config = dataclasses.replace(PATIENT, outbox_bytes_max=20_000)
    async with serving() as server, child(server, tmp_path, config=config, handlers=handlers) as client:
        await client.send_many([change(number) for number in range(250)])
        await client.connect()
        await client.drain()
        while told != ["high", "low"]:
            await asyncio.sleep(0.01)


async def test_a_batch_whose_history_is_forgotten_is_in_its_table(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        [future] = client._ledger.awaited.tables([1])
        await client.send_batch([change(1)])
        await in_thread(lambda: (BatchPayload.objects.all().delete(), Batch.objects.all().delete()))
        client._keeper.wake()
        assert (await future).path is None


async def test_a_batch_the_parent_never_had_is_not_waited_for(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        [future] = client._ledger.awaited.tables([7])
        client._keeper.wake()
        with pytest.raises(ProtocolError, match="batch 7 was never acknowledged"):
            await future


async def test_two_disconnects_at_once_are_one(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        await asyncio.gather(client.disconnect(), client.disconnect())
        assert client.state is ClientState.DISCONNECTED


async def test_what_a_cancelled_send_kept_leaves_all_the_same(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        sending = asyncio.create_task(client.send(change(1)))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        while not await in_thread(stored):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("url", ["ws://bad..host/ws", "ws://127.0.0.1:99999/ws", "ws://127.0.0.1:abc/ws"])
async def test_an_address_python_stumbles_over_is_said_plainly(tmp_path, url):
    client = LakehouseRpcClient(url, "shop-1", outbox=tmp_path / "o.sqlite3", config=IMPATIENT)
    with pytest.raises(AccessDeniedError, match="is no address of a parent"):
        await client.connect()
    await client.close()


async def test_a_closed_client_still_tells_what_it_did(tmp_path):
    async with serving() as server:
        async with child(server, tmp_path) as client:
            await client.connect()
            await client.send_batch([change(1)])
        assert (client.get_stats().acked_batches, client.get_stats().state) == (1, ClientState.DISCONNECTED)
        assert client.status()["connected"] is False
        assert "evodb_child_acked_batches_total 1\n" in client.metrics_text()
        with pytest.raises(OutboxClosedError, match=r"this client and its outbox .* are closed; make a new one"):
            await client.connect()
        assert client.state is ClientState.DISCONNECTED


async def test_async_with_that_is_refused_lets_go_of_its_outbox(tmp_path):
    async with serving(open=False) as server:
        client = LakehouseRpcClient(server.url, "shop-1", outbox=tmp_path / "o.sqlite3")
        with pytest.raises(AccessDeniedError):
            async with client:
                pass
        with pytest.raises(OutboxClosedError):
            await client.send(change(1))


async def test_a_flush_that_is_asked_for_while_the_client_dials_is_done_when_it_is_through(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await server.stop()
        connecting = asyncio.create_task(client.connect())
        while not client.get_stats().reconnect_attempts:
            await asyncio.sleep(0)
        flushing = asyncio.create_task(client.request_flush())
        await asyncio.sleep(0)
        assert not flushing.done()
        await server.start()
        assert (await flushing).success
        await connecting


async def test_who_waits_for_a_connection_hears_that_another_call_disconnected(tmp_path):
    client = LakehouseRpcClient("ws://127.0.0.1:9/ws", "shop-1", outbox=tmp_path / "o.sqlite3", config=PATIENT)
    waiting = [asyncio.create_task(client.connect()) for _ in range(2)]
    while not client.get_stats().reconnect_attempts:
        await asyncio.sleep(0)
    await client.close()
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert {str(error) for error in told} == {"disconnected meanwhile by another call; call connect() to go on"}


async def test_a_close_that_is_cancelled_has_closed(tmp_path):
    async def silent(socket):
        await socket.wait_closed()

    async with serve(silent, "127.0.0.1", 0, close_timeout=0.01) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        client = LakehouseRpcClient(url, "shop-1", outbox=tmp_path / "o.sqlite3", config=PATIENT)
        await client.send(change(1))
        connecting = asyncio.create_task(client.connect())
        while client._keeper.link is None:
            await asyncio.sleep(0)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        told = await asyncio.gather(closing, connecting, return_exceptions=True)
        assert [type(error) for error in told] == [asyncio.CancelledError, ConnectionError]
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        assert len(outbox.unacked()) + outbox.uncut_entries() == 1


async def test_whatever_ends_a_client_its_batch_is_kept_and_said_so(tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        monkeypatch.setattr("rpc.link.reach", broken)
        result = await client.send_batch([change(1)])
        assert (result.kept, type(result.cause)) == (True, LakehouseRpcError)
        assert "the client stopped: ZeroDivisionError: a bug" in result.error
        assert type(result.cause.__cause__) is ZeroDivisionError


async def test_disconnect_gives_a_goodbye_the_time_that_is_left_of_its_own(tmp_path):
    async with serving() as server, child(server, tmp_path) as client:
        await client.connect()
        latest_s = asyncio.get_running_loop().time() + 7
        await client.disconnect(timeout_ms=7000)
        assert client._keeper.hang_up_by_s >= latest_s
        await client.connect()
        assert client._keeper.hang_up_by_s is None


async def test_a_loop_that_is_not_the_clients_cannot_close_it(tmp_path):
    client = LakehouseRpcClient("ws://127.0.0.1:9/ws", "shop-1", outbox=tmp_path / "o.sqlite3", config=PATIENT)
    await client.send(change(1))
    with pytest.raises(RuntimeError, match="at work in another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(client.close()))
    await client.send(change(2))
    await client.close()


async def test_flushes_that_several_calls_ask_for_at_once_are_done_one_after_the_other(tmp_path, lake_settings):
    async with serving(data_dir=lake_settings.data_dir) as server, child(server, tmp_path) as client:
        await client.connect()
        await client.send(change(1))
        flushing = asyncio.gather(*(client.request_flush() for _ in range(3)))
        while not server.asked:
            await asyncio.sleep(0.01)
        await in_thread(lambda: flush(server))
        assert [result.success for result in await flushing] == [True, True, True]


async def test_somebody_who_is_no_parent_is_said_to_be_none(tmp_path):
    async def greets(socket):
        await socket.send("hello")
        await socket.wait_closed()

    async with serve(greets, "127.0.0.1", 0, close_timeout=0.01) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        client = LakehouseRpcClient(url, "shop-1", outbox=tmp_path / "o.sqlite3", config=IMPATIENT)
        with pytest.raises(ProtocolError, match=r"is no message of a parent .* is the address that of a parent"):
            await client.connect()
        await client.close()


def test_one_run_after_the_other_may_use_a_client_and_two_at_once_are_told_so(tmp_path):
    client = LakehouseRpcClient("ws://127.0.0.1:9/ws", "shop-1", outbox=tmp_path / "o.sqlite3", config=IMPATIENT)

    async def used():
        await asyncio.gather(*(client.send(change(number)) for number in range(5)))
        with pytest.raises(ConnectionError, match="cannot reach"):
            await client.connect()
        with pytest.raises(RuntimeError, match="at work in another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(client.send(change(9))))

    asyncio.run(used())
    asyncio.run(used())
    assert client.get_stats().batch_buffer_size == 10
    asyncio.run(client.close())
