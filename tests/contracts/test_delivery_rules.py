"""The delivery rules of the protocol, one by one and end to end: a child on a real socket, a real parent, its journal.

The details of each rule are tested where they are decided; here stands what a child may rely on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from lakehouse.models import Batch, BatchPayload, Child, Parent
from lakehouse.parent import access
from rpc import batch
from rpc.batch import BatchFrame, Encoding
from rpc.client import LakehouseRpcClient
from rpc.entries import RawEntry
from rpc.errors import BufferOverflowError
from rpc.messages import AckStatus, NackReason
from tests.acceptance.processes import House
from tests.builders import NOW_MS, entry, run, wire
from tests.contracts.ends import PATIENCE_S, Scripted, ask, child, client, eventually, hello, rows, scripted
from tests.contracts.old_clients import DosqlClient, PackageClient, change
from tests.lakehouse.test_intake import impatient, in_thread, locked
from tests.server import serving
from tests.services import free_port

pytestmark = pytest.mark.django_db(transaction=True)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "rpc_wire.json").read_text())["messages"]
OLD_BATCHES = ["batch_min_corr", "entry_update_before_after", "entry_nested_deep", "entries_20"]


def journal() -> list[int]:
    """The `id` of every entry, batch by batch."""
    payloads = BatchPayload.objects.order_by("batch__child", "batch__epoch", "batch__sequence")
    stored = [(Encoding(one.batch.encoding), bytes(one.payload)) for one in payloads.select_related("batch")]
    return [json.loads(one.after)["id"] for encoding, payload in stored for one in entries_of(encoding, payload)]


def entries_of(encoding: Encoding, payload: bytes) -> list[RawEntry]:
    return batch.raw_entries(BatchFrame(0, None, "", None, 0, False, encoding, payload, 0, [], []))


# 1. Acknowledged means durable.


async def test_rule_01_a_batch_is_in_the_journal_before_its_ack_leaves() -> None:
    async with serving() as server, child(server.url) as socket:
        for sequence in range(1, 6):
            assert (await ask(socket, wire(sequence, run(sequence, sequence)))).status is AckStatus.OK
            assert await in_thread(Batch.objects.count) == sequence


async def test_rule_01_what_was_acknowledged_survives_the_death_of_the_parent(tmp_path: Path) -> None:
    with House(tmp_path, open=True, up_port=free_port()) as house:
        await asyncio.to_thread(house.prepare)
        house.daphne.start()
        socket = await knock(house.url)
        await ask(socket, hello())
        for sequence in range(1, 6):
            await ask(socket, wire(sequence, run(sequence, sequence)))
        house.daphne.kill()
        socket.transport.abort()
        assert house.journal.rows("SELECT sequence FROM lakehouse_batch ORDER BY id") == [(n,) for n in range(1, 6)]


async def knock(url: str) -> ClientConnection:
    """A connection, as soon as somebody listens."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(OSError):
                return await connect(url, compression=None)
            await asyncio.sleep(0.02)


async def test_rule_01_what_cannot_be_stored_is_not_acknowledged() -> None:
    async with serving() as server, child(server.url) as socket:
        await server.house.intake.run(impatient)
        async with locked(await in_thread(Parent.objects.get)):
            answer = await ask(socket, wire(1, run(1, 1)))
        assert (answer.reason, answer.should_retry) == (NackReason.INTERNAL_ERROR, True)
        assert (await ask(socket, wire(1, run(1, 1)))).status is AckStatus.OK


# 2. A retry is the same batch.


async def test_rule_02_a_retry_keeps_its_sequence_and_entries_and_says_that_it_is_one(tmp_path: Path) -> None:
    parent = Scripted(lambda _, count: None if count == 1 else AckStatus.OK)
    async with scripted(parent) as url, client(url, tmp_path) as ours:
        await ours.connect()
        await ours.send_batch(rows(1, 2))
    first, again = parent.batches
    assert (first.sequence, first.payload) == (again.sequence, again.payload)
    assert (first.is_retry, again.is_retry) == (False, True)


async def test_rule_02_an_old_client_that_retries_under_a_new_sequence_leaves_one_copy() -> None:
    async with serving() as server, PackageClient(server.url, "shop-1") as old:
        entries = [change(1), change(2)]
        assert (await old.send_batch(entries))["status"] == "ok"
        assert (await old.send_batch(entries, is_retry=True))["status"] == "duplicate"
    assert await in_thread(journal) == [1, 2]


# 3. Same content decides.


async def test_rule_03_a_restarted_child_that_begins_again_at_one_loses_nothing() -> None:
    async with serving() as server:
        for first in (1, 101):
            async with PackageClient(server.url, "shop-1") as old:
                assert (await old.send_batch([change(1, id=first)]))["status"] == "ok"
                assert (await old.send_batch([change(2, id=first + 1)]))["status"] == "ok"
    assert await in_thread(journal) == [1, 2, 101, 102]


@pytest.mark.parametrize("epoch", [5, None])
async def test_rule_03_time_and_correlation_id_of_the_message_never_count(epoch: int | None) -> None:
    async with serving() as server:
        async with child(server.url, epoch=epoch) as socket:
            assert (await ask(socket, wire(1, run(1, 2), correlation_id="a"))).status is AckStatus.OK
            again = wire(1, run(1, 2), correlation_id="b", timestamp_ms=NOW_MS + 999)
            assert (await ask(socket, again)).status is AckStatus.DUPLICATE
        async with child(server.url, epoch=epoch) as socket:
            assert (await ask(socket, again)).status is AckStatus.DUPLICATE


@pytest.mark.parametrize(("is_retry", "retry_count"), [(True, 0), (False, 3), (True, 3)])
async def test_rule_03_retry_marks_never_count(is_retry: bool, retry_count: int) -> None:
    message = {"type": "cdc_batch", "timestamp": 1, "sourceDoId": "s", "sequenceNumber": 1, "entries": [change(1)]}
    async with serving() as server, connect(server.url) as socket:
        assert (await ask(socket, json.dumps(message))).status is AckStatus.OK
        again = message | {"isRetry": is_retry, "retryCount": retry_count}
        assert (await ask(socket, json.dumps(again))).status is AckStatus.DUPLICATE


@pytest.mark.parametrize(
    "other",
    [
        {"sequence": 2},
        {"timestamp_ms": NOW_MS + 1},
        {"operation": 1},
        {"table": b"users"},
        {"row_id": b"r2"},
        {"before": b"null"},
        {"after": b'{"id":7}'},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_rule_03_each_field_of_an_entry_counts(other: dict[str, Any]) -> None:
    async with serving() as server:
        for content in (entry(1), entry(1)._replace(**other)):
            async with child(server.url, epoch=None) as socket:
                assert (await ask(socket, wire(1, [content]))).status is AckStatus.OK
    assert await in_thread(Batch.objects.count) == 2


# 4. Epochs.


async def test_rule_04_the_sequences_of_an_outbox_never_begin_again(tmp_path: Path) -> None:
    async with serving() as server:
        for number in range(1, 4):
            async with client(server.url, tmp_path) as ours:
                await ours.connect()
                await ours.send_batch(rows(number, number))
    stored = await in_thread(lambda: list(Batch.objects.order_by("id").values_list("epoch", "sequence")))
    assert [sequence for _, sequence in stored] == [1, 2, 3]
    assert len({epoch for epoch, _ in stored}) == 1


async def test_rule_04_status_tells_the_highest_sequence_without_a_gap_below() -> None:
    async with serving() as server:
        async with child(server.url) as socket:
            for sequence in (1, 2, 4):
                await ask(socket, wire(sequence, run(sequence, sequence)))
        async with connect(server.url) as socket:
            status = await ask(socket, hello())
            assert (status.resume_sequence, status.highest_sequence) == (2, 4)
        async with connect(server.url) as socket:
            assert (await ask(socket, hello(epoch=6))).resume_sequence == 0


async def test_rule_04_a_child_goes_on_behind_what_the_parent_has(tmp_path: Path) -> None:
    parent = Scripted(lambda *_: AckStatus.OK, resume=2)
    async with scripted(parent) as url, client(url, tmp_path) as ours:
        await asyncio.to_thread(cut_batches, ours, 4)
        await ours.connect()
        await ours.drain()
        assert ours.outbox.pending_batches == 0
    assert {1, 3, 4} & {frame.sequence for frame in parent.batches} == {3, 4}


def cut_batches(ours: LakehouseRpcClient, count: int) -> None:
    for number in range(1, count + 1):
        ours.outbox.append([entry(number)])
        ours.outbox.cut(entries_max=1, bytes_max=1_000_000)


@pytest.mark.parametrize("epoch", [5, None])
async def test_rule_04_same_connection_same_sequence_other_content_is_refused_for_good(epoch: int | None) -> None:
    async with serving() as server, child(server.url, epoch=epoch) as socket:
        await ask(socket, wire(1, run(1, 2)))
        answer = await ask(socket, wire(1, run(3, 4)))
        assert (answer.reason, answer.should_retry) == (NackReason.INVALID_SEQUENCE, False)
        assert (await ask(socket, wire(2, run(3, 4)))).status is AckStatus.OK


# 5. A batch may be cut anew.


@pytest.mark.parametrize("epoch", [5, None])
async def test_rule_05_of_a_batch_that_was_cut_anew_only_the_rest_is_stored(epoch: int | None) -> None:
    async with serving() as server, child(server.url, epoch=epoch) as socket:
        await ask(socket, wire(1, run(1, 3)))
        assert (await ask(socket, wire(2, run(2, 5)))).status is AckStatus.OK
        assert (await ask(socket, wire(3, [*run(4, 5), *run(1, 1)]))).status is AckStatus.DUPLICATE
    assert await in_thread(journal) == [1, 2, 3, 4, 5]


# 6. What is remembered: bounded, durable, recorded with the batch.


@pytest.mark.parametrize("epoch", [5, None])
async def test_rule_06_a_restarted_parent_still_knows_what_it_has(epoch: int | None) -> None:
    async with serving() as server:
        async with child(server.url, epoch=epoch) as socket:
            await ask(socket, wire(1, run(1, 2)))
        await server.stop()
        await server.start()
        async with child(server.url, epoch=epoch) as socket:
            assert (await ask(socket, wire(1, run(1, 2)))).status is AckStatus.DUPLICATE
    assert await in_thread(journal) == [1, 2]


@pytest.mark.parametrize("epoch", [5, None])
async def test_rule_06_a_batch_that_was_refused_is_not_remembered(epoch: int | None) -> None:
    limits = {"flush_threshold_entries": 5, "max_buffer_entries": 10}
    await in_thread(lambda: Parent.objects.create(name="default", config=limits))
    async with serving() as server, child(server.url, epoch=epoch) as socket:
        await ask(socket, wire(1, run(1, 5)))
        assert (await ask(socket, wire(2, run(6, 11)))).reason is NackReason.BUFFER_FULL
        await in_thread(lambda: Parent.objects.update(pending_entries=0, pending_bytes=0))
        assert (await ask(socket, wire(2, run(6, 11)))).status is AckStatus.OK
    assert await in_thread(journal) == list(range(1, 12))


async def test_rule_06_beyond_the_window_an_old_client_is_not_remembered() -> None:
    async with serving() as server:
        async with child(server.url, epoch=None) as socket:
            await ask(socket, wire(1, run(1, 1)))
        await in_thread(lambda: Batch.objects.update(received_ms=NOW_MS))
        async with child(server.url, epoch=None) as socket:
            assert (await ask(socket, wire(1, run(1, 1)))).status is AckStatus.OK


# 7. A connection that dies.


async def test_rule_07_what_was_under_way_is_sent_again_with_its_sequences_and_in_order(tmp_path: Path) -> None:
    def first_die(_: BatchFrame, count: int) -> AckStatus | None:
        if count == 3:
            raise ConnectionResetError
        return AckStatus.OK if count > 3 else None

    parent = Scripted(first_die)
    async with scripted(parent) as url, client(url, tmp_path, ack_timeout_ms=PATIENCE_S * 1000) as ours:
        await asyncio.to_thread(cut_batches, ours, 3)
        await ours.connect()
        await eventually(lambda: ours.outbox.pending_batches == 0)
    assert parent.connections == 2
    assert [frame.sequence for frame in parent.batches] == [1, 2, 3, 1, 2, 3]
    assert [frame.payload for frame in parent.batches[:3]] == [frame.payload for frame in parent.batches[3:]]


async def test_rule_07_nothing_is_dropped_while_there_is_no_parent_or_no_process(tmp_path: Path) -> None:
    async with serving() as server:
        await server.stop()
        for first in (1, 26):
            async with client(server.url, tmp_path) as ours:
                await ours.send_many(rows(first, first + 24))
        await server.start()
        async with client(server.url, tmp_path) as ours:
            await ours.connect()
            await ours.drain()
    assert await in_thread(journal) == list(range(1, 51))


async def test_rule_07_a_full_outbox_says_so_when_that_is_wanted(tmp_path: Path) -> None:
    async with client("ws://127.0.0.1:9/ws", tmp_path, outbox_bytes_max=1000) as ours:
        with pytest.raises(BufferOverflowError, match="1000"):
            await send_one_by_one(ours, 100)
        assert 0 < ours.outbox.pending_entries < 100


async def test_rule_07_a_full_outbox_waits_for_the_next_ack_when_that_is_wanted(tmp_path: Path) -> None:
    async with (
        serving() as server,
        client(server.url, tmp_path, outbox_bytes_max=1000, outbox_when_full="wait") as ours,
    ):
        sending = asyncio.create_task(send_one_by_one(ours, 100))
        await eventually(lambda: ours.outbox.pending_bytes > 900)
        assert not sending.done()
        await ours.connect()
        async with asyncio.timeout(PATIENCE_S):
            await sending
        await ours.drain()
    assert await in_thread(journal) == list(range(1, 101))


async def send_one_by_one(ours: LakehouseRpcClient, count: int) -> None:
    for number in range(1, count + 1):
        await ours.send_many(rows(number, number))


# 8. The key decides who a child is.


async def test_rule_08_a_batch_belongs_to_the_child_of_the_connection() -> None:
    async with serving() as server, connect(server.url, additional_headers={"X-Client-ID": "shop-1"}) as socket:
        await ask(socket, wire(1, run(1, 1), source="bank-1"))
    assert await in_thread(lambda: Batch.objects.get().child.name) == "shop-1"


async def test_rule_08_a_key_writes_only_as_its_own_children() -> None:
    _, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], source_pattern="shop-*", now_ms=NOW_MS))
    async with serving(open=False) as server:
        async with connect(f"{server.url}?token={token}") as socket:
            assert (await ask(socket, wire(1, run(1, 1), source="shop-1"))).status is AckStatus.OK
        async with connect(f"{server.url}?token={token}") as socket:
            await socket.send(wire(1, run(1, 1), source="bank-1"))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
    assert await in_thread(lambda: list(Child.objects.values_list("name", flat=True))) == ["shop-1"]


# 9. Goodbyes.


async def test_rule_09_the_parent_answers_the_close_handshake() -> None:
    async with serving() as server, child(server.url) as socket:
        await socket.close(1000, "done")
        assert socket.protocol.close_rcvd is not None
        assert socket.protocol.close_rcvd.code == 1000


async def test_rule_09_disconnect_leaves_no_timer_and_no_task(tmp_path: Path) -> None:
    async with serving() as server, client(server.url, tmp_path) as ours:
        before = asyncio.all_tasks()
        await ours.connect()
        await ours.send_batch(rows(1, 1))
        await ours.disconnect()
        left = {repr(task) for task in asyncio.all_tasks() - before}
        assert not [task for task in left if "/rpc/" in task or "websockets/asyncio/client" in task]


async def test_rule_09_disconnect_does_not_wait_for_a_parent_that_is_frozen(tmp_path: Path) -> None:
    async def freeze(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(Scripted(lambda *_: None).status())
        socket.transport.pause_reading()
        await socket.wait_closed()

    async with serve(freeze, "127.0.0.1", 0, ping_interval=None, close_timeout=0.01) as frozen:
        url = f"ws://127.0.0.1:{frozen.sockets[0].getsockname()[1]}/ws"
        async with client(url, tmp_path, ack_timeout_ms=PATIENCE_S * 10_000) as ours:
            await ours.connect()
            await ours.send_many(rows(1, 1))
            async with asyncio.timeout(PATIENCE_S):
                await ours.disconnect(timeout_ms=50)
            assert ours.outbox.pending_entries == 1


# 10. The clients that were here before us.


async def test_rule_10_the_original_client_works_unmodified() -> None:
    async with serving() as server, PackageClient(server.url, "shop-1") as old:
        assert "Origin" not in old.socket.request.headers
        assert "X-Client-ID" not in old.socket.request.headers
        assert "permessage-deflate" in old.socket.request.headers["Sec-WebSocket-Extensions"]
        for number in range(1, 6):
            answer = await old.send_batch([change(number)])
            assert (answer["status"], answer["sequenceNumber"]) == ("ok", number)
    assert await in_thread(journal) == [1, 2, 3, 4, 5]
    assert await in_thread(lambda: Child.objects.get().name) == "shop-1"


async def test_rule_10_the_original_client_may_bring_its_key_in_the_address() -> None:
    _, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
    async with serving(open=False) as server, PackageClient(f"{server.url}?token={token}", "shop-1") as old:
        assert (await old.send_batch([change(1)]))["status"] == "ok"


async def test_rule_10_the_crc_of_an_old_encoder_is_wrong_from_its_second_message_on_and_does_not_matter() -> None:
    async with serving() as server, PackageClient(server.url, "shop-1") as old:
        for number in range(1, 4):
            assert (await old.send_batch([change(number)]))["status"] == "ok"
        assert [has_its_crc(frame) for frame in old.sent] == [True, False, False]
    assert await in_thread(journal) == [1, 2, 3]


async def test_rule_10_recorded_bytes_of_the_old_encoder_are_taken_whatever_their_crc_says() -> None:
    """Under a sequence of their own each, which leaves all but the first with the crc of something else."""
    recorded = [bytes.fromhex(vector["hex"]) for vector in VECTORS if vector["name"] in OLD_BATCHES]
    async with serving() as server, connect(server.url) as socket:
        for number, frame in enumerate(recorded, start=1):
            frame = frame[:16] + number.to_bytes(8, "little") + frame[24:]
            assert has_its_crc(frame) is (number == 1)
            assert (await ask(socket, frame)).status is AckStatus.OK
    stored = await in_thread(lambda: [bytes(one.payload) for one in BatchPayload.objects.order_by("batch__sequence")])
    assert all(frame.endswith(payload) for frame, payload in zip(recorded, stored, strict=True))


def has_its_crc(frame: bytes) -> bool:
    return crc32(frame[:36] + b"\0\0\0\0" + frame[40:]) == int.from_bytes(frame[36:40], "little")


async def test_rule_10_the_dosql_client_starts_at_sequence_zero() -> None:
    async with serving() as server, DosqlClient(server.url, "do-1", "shard-1") as dosql:
        for sequence in range(3):
            events = [dosql.capture("INSERT", {"id": sequence * 10 + place}) for place in range(2)]
            answer = await dosql.send_batch(events)
            assert (answer["type"], answer["status"], answer["sequenceNumber"]) == ("ack", "ok", sequence)
            assert answer["details"]["eventsProcessed"] == 2
        await dosql.heartbeat()
        await eventually(lambda: [one["type"] for one in dosql.told] == ["status", "pong"])
    assert await in_thread(journal) == [0, 1, 10, 11, 20, 21]
    stored = await in_thread(Child.objects.get)
    assert (stored.name, stored.shard) == ("do-1", "shard-1")


async def test_rule_10_a_retry_of_the_dosql_client_is_one_copy() -> None:
    async with serving() as server:
        async with DosqlClient(server.url, "do-1", "shard-1") as dosql:
            events = [dosql.capture("INSERT", {"id": 1})]
            await dosql.send_batch(events)
            assert (await dosql.send_again(events, 0))["status"] == "duplicate"
        async with DosqlClient(server.url, "do-1", "shard-1", batch_sequence=1) as dosql:
            assert (await dosql.send_again(events, 0))["status"] == "duplicate"
    assert await in_thread(journal) == [1]


async def test_rule_10_a_restarted_dosql_client_counts_its_events_anew_and_loses_nothing() -> None:
    async with serving() as server:
        async with DosqlClient(server.url, "do-1", "shard-1") as first:
            for number in (1, 2):
                await first.send_batch([first.capture("INSERT", {"id": number})])
        async with DosqlClient(server.url, "do-1", "shard-1", batch_sequence=first.batch_sequence) as second:
            for number in (3, 4):
                assert (await second.send_batch([second.capture("INSERT", {"id": number})]))["status"] == "ok"
    assert await in_thread(journal) == [1, 2, 3, 4]
