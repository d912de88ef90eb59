from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpc import columns
from rpc.entries import RawEntry
from rpc.errors import BufferOverflowError, LakehouseRpcError, OutboxCorruptError, ProtocolError
from rpc.outbox import Outbox, OutboxBatch
from rpc.outbox_file import OutboxBusyError
from rpc.outbox_rows import ENTRY_BYTES_MAX

NOW_MS = 1_700_000_000_000
MIB = 1024 * 1024


def entry(number: int, *, after: bytes = b'{"a":1}', metadata: bytes = b"") -> RawEntry:
    return RawEntry(0, NOW_MS + number, 0, b"flights", str(number).encode(), b"", after, metadata)


def entries(count: int, *, start: int = 0) -> list[RawEntry]:
    return [entry(number) for number in range(start, start + count)]


def cut(outbox: Outbox, *, entries_max: int = 1000, bytes_max: int = 4 * MIB) -> OutboxBatch:
    batch = outbox.cut(entries_max=entries_max, bytes_max=bytes_max)
    assert batch is not None
    return batch


def row_ids(batch: OutboxBatch) -> list[int]:
    return [int(entry.row_id) for entry in columns.decode(batch.payload).entries()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    with Outbox(path, now_ms=lambda: NOW_MS) as opened:
        yield opened


def test_an_entry_travels_as_it_was_given_but_for_its_sequence(outbox: Outbox) -> None:
    given = RawEntry(77, 5, 1, b"flights", "LH 1 Zürich".encode(), b"null", b'{"a":[1,2.50]}', b'{"who":"me"}')
    assert outbox.append([given]) == 1
    batch = cut(outbox)
    assert columns.decode(batch.payload).entries() == [given._replace(sequence=1)]
    assert (batch.entries, batch.first, batch.last) == (1, 1, 1)


def test_batches_are_numbered_from_one_and_hold_the_oldest_entries(outbox: Outbox) -> None:
    outbox.append(entries(5))
    first, second = cut(outbox, entries_max=3), cut(outbox, entries_max=3)
    assert (first.sequence, first.entries, first.first, first.last) == (1, 3, 1, 3)
    assert (second.sequence, second.entries, second.first, second.last) == (2, 2, 4, 5)
    assert row_ids(first) + row_ids(second) == [0, 1, 2, 3, 4]
    assert outbox.last_sequence == 2
    assert outbox.cut(entries_max=3, bytes_max=MIB) is None


def test_a_batch_keeps_within_its_bytes(outbox: Outbox) -> None:
    outbox.append(entry(number, after=b'"' + b"x" * 1000 + b'"') for number in range(10))
    batches = [cut(outbox, bytes_max=4000) for _ in range(4)]
    assert [batch.entries for batch in batches] == [3, 3, 3, 1]
    assert max(len(batch.payload) for batch in batches) <= 4000


def test_an_entry_larger_than_a_batch_travels_alone(outbox: Outbox) -> None:
    outbox.append([entry(0), entry(1, after=b'"' + b"x" * 5000 + b'"'), entry(2)])
    assert [cut(outbox, bytes_max=1000).entries for _ in range(3)] == [1, 1, 1]


def test_a_restart_sends_the_same_cut_again_byte_for_byte(path: Path) -> None:
    with Outbox(path, now_ms=lambda: NOW_MS) as outbox:
        outbox.append(entry(number, metadata=b'{"m":1}' if number % 3 else b"") for number in range(10))
        before = [cut(outbox, entries_max=4), cut(outbox, entries_max=4)]
    with Outbox(path, now_ms=lambda: NOW_MS + 99) as outbox:
        assert outbox.unacked() == before
        assert (outbox.epoch, outbox.last_sequence) == (NOW_MS, 2)
        assert row_ids(cut(outbox)) == [8, 9]


def test_unacked_begins_behind_a_sequence_and_ends_at_its_limit(outbox: Outbox) -> None:
    outbox.append(entries(5))
    for _ in range(5):
        cut(outbox, entries_max=1)
    assert [batch.sequence for batch in outbox.unacked(after=1, limit=3)] == [2, 3, 4]


def test_an_ack_forgets_one_batch_in_any_order(outbox: Outbox) -> None:
    outbox.append(entries(6))
    for _ in range(3):
        cut(outbox, entries_max=2)
    outbox.ack(2)
    outbox.ack(2)
    outbox.ack(99)
    assert [row_ids(batch) for batch in outbox.unacked()] == [[0, 1], [4, 5]]


def test_ack_through_forgets_all_batches_up_to_one(outbox: Outbox) -> None:
    outbox.append(entries(8))
    for _ in range(3):
        cut(outbox, entries_max=2)
    outbox.ack(1)
    outbox.ack_through(2)
    assert [batch.sequence for batch in outbox.unacked()] == [3]
    assert outbox.pending_entries == 4


def test_sequences_of_entries_and_batches_never_start_again(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.append(entries(3))
        outbox.ack(cut(outbox).sequence)
    with Outbox(path) as outbox:
        outbox.append(entries(1))
        batch = cut(outbox)
        assert (batch.sequence, batch.first) == (2, 4)


def test_what_is_pending_is_counted(outbox: Outbox) -> None:
    assert (outbox.pending_entries, outbox.pending_batches, outbox.pending_bytes, outbox.uncut_entries()) == (
        0,
        0,
        0,
        0,
    )
    outbox.append(entries(5))
    uncut = outbox.pending_bytes
    batch = cut(outbox, entries_max=2)
    assert (outbox.pending_entries, outbox.pending_batches, outbox.uncut_entries()) == (5, 1, 3)
    assert outbox.pending_bytes == len(batch.payload) + uncut // 5 * 3
    outbox.ack(batch.sequence)
    assert (outbox.pending_entries, outbox.pending_bytes) == (3, uncut // 5 * 3)


def test_bytes_are_counted_the_same_after_a_restart(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.append(entries(7))
        cut(outbox, entries_max=3)
        outbox.append(entries(2))
        counted = outbox.pending_bytes
    with Outbox(path) as outbox:
        assert outbox.pending_bytes == counted


def test_entries_of_another_process_are_seen_and_counted(outbox: Outbox, path: Path) -> None:
    assert outbox.pending_bytes == 0
    with Outbox(path) as other:
        other.append(entries(2))
        assert outbox.pending_bytes == other.pending_bytes > 0
    assert row_ids(cut(outbox)) == [0, 1]


def test_a_full_outbox_keeps_nothing_of_the_call_and_all_of_the_earlier_ones(path: Path) -> None:
    with Outbox(path, bytes_max=1000) as outbox:
        outbox.append(entries(10))
        held = outbox.pending_bytes
        with pytest.raises(BufferOverflowError, match=r"bytes_max \(1000\)"):
            outbox.append(entries(12))
        assert (outbox.uncut_entries(), outbox.pending_bytes) == (10, held)
        outbox.ack(cut(outbox).sequence)
        assert outbox.append(entries(12)) == 12


def test_a_full_disk_keeps_nothing_of_the_call_and_works_again_when_there_is_room(outbox: Outbox) -> None:
    outbox.append(entries(10))
    connection = outbox._file.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 10}")
    big = [entry(number, after=b'"' + b"x" * 1000 + b'"') for number in range(1000)]
    with pytest.raises(BufferOverflowError, match="full") as caught:
        outbox.append(big)
    assert caught.value.retryable
    assert outbox.uncut_entries() == 10
    assert cut(outbox, entries_max=5).entries == 5
    connection.execute("PRAGMA max_page_count = 1000000")
    assert outbox.append(big) == 1000
    assert outbox.uncut_entries() == 1005


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (entry(1)._replace(operation=3), "operation is 3"),
        (entry(1)._replace(timestamp_ms=-1), "timestamp is -1"),
        (entry(1)._replace(timestamp_ms=2**63), "timestamp is 9223372036854775808"),
        (entry(1)._replace(table=b"t" * 256), "wanted 1 to 255 letters"),
        (entry(1)._replace(row_id=b"r" * 65536), "rowId has 65536 bytes"),
        (entry(1)._replace(after=b"x" * ENTRY_BYTES_MAX), "at most"),
    ],
)
def test_an_entry_that_cannot_travel_is_refused_with_its_whole_call(outbox: Outbox, bad: RawEntry, found: str) -> None:
    with pytest.raises(ProtocolError, match=found):
        outbox.append([entry(0), bad])
    assert outbox.uncut_entries() == 0


def test_appending_nothing_is_fine(outbox: Outbox) -> None:
    assert outbox.append([]) == 0
    assert outbox.cut(entries_max=1, bytes_max=1) is None


def test_a_rejected_batch_becomes_a_dead_letter_and_can_be_sent_again(outbox: Outbox) -> None:
    outbox.append(entries(4))
    batch = cut(outbox, entries_max=2)
    outbox.reject(batch.sequence, "table is unknown")
    outbox.reject(99, "no such batch")
    (letter,) = outbox.dead_letters()
    assert letter == (1, "table is unknown", NOW_MS, 2, batch.payload)
    assert (outbox.unacked(), outbox.pending_entries) == ([], 2)
    assert outbox.revive(1) == 2
    assert outbox.revive(1) == 0
    assert outbox.dead_letters() == []
    assert row_ids(cut(outbox)) == [2, 3, 0, 1]


def test_a_dead_letter_counts_against_the_room_until_it_is_dropped(path: Path) -> None:
    with Outbox(path, bytes_max=1000) as outbox:
        outbox.append(entries(15))
        outbox.reject(cut(outbox).sequence, "no")
        with pytest.raises(BufferOverflowError):
            outbox.append(entries(15))
        outbox.drop_dead_letter(1)
        assert outbox.append(entries(15)) == 15


def test_a_new_epoch_is_higher_and_cuts_everything_unacked_again_from_one(outbox: Outbox) -> None:
    outbox.append(entries(8))
    for _ in range(3):
        cut(outbox, entries_max=2)
    outbox.ack(2)
    assert outbox.renew_epoch() == outbox.epoch == NOW_MS + 1
    assert (outbox.last_sequence, outbox.pending_batches, outbox.uncut_entries()) == (0, 0, 6)
    batch = cut(outbox)
    assert (batch.sequence, row_ids(batch)) == (1, [0, 1, 4, 5, 6, 7])
    assert outbox.uncut_entries() == 0
    outbox.append(entries(1))
    assert outbox.uncut_entries() == 1


def test_a_new_epoch_may_resume_behind_a_sequence(outbox: Outbox) -> None:
    outbox.append(entries(1))
    outbox.renew_epoch(resume_after=40)
    assert cut(outbox).sequence == 41


def test_only_one_process_at_a_time_drains(outbox: Outbox, path: Path) -> None:
    outbox.append(entries(1))
    cut(outbox)
    with Outbox(path) as second:
        with pytest.raises(OutboxBusyError, match=r"outbox\.db\.lock"):
            second.unacked()
        assert second.append(entries(1)) == 1
        outbox.close()
        assert [batch.sequence for batch in second.unacked()] == [1]


def test_a_file_that_is_no_database_is_refused_with_what_to_do(path: Path) -> None:
    path.write_bytes(b"certainly not a database" * 100)
    with pytest.raises(OutboxCorruptError, match="keep_corrupt_aside=True"):
        Outbox(path)
    assert path.read_bytes().startswith(b"certainly")


def test_a_database_of_somebody_else_is_refused_untouched(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (id)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(OutboxCorruptError, match="SqliteCapture"):
        Outbox(path)
    assert path.read_bytes() == before


def test_a_file_of_another_format_is_refused(outbox: Outbox, path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE _evodb_meta SET value = 2 WHERE key = 'format'")
    connection.close()
    with pytest.raises(OutboxCorruptError, match="format 2"):
        Outbox(path)


def test_a_batch_that_lost_entries_is_corrupt_and_not_sent(outbox: Outbox, path: Path) -> None:
    outbox.append(entries(2))
    cut(outbox)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DELETE FROM _evodb_change WHERE id = 1")
    connection.close()
    with pytest.raises(OutboxCorruptError, match="1 of its 2"):
        outbox.unacked()


def test_an_outbox_without_a_name_would_be_gone_with_the_process_and_is_refused() -> None:
    with pytest.raises(
        ValueError, match="outbox is '', which would be gone with the process; wanted the path of a file"
    ):
        Outbox("")


def test_a_file_that_cannot_be_written_says_what_to_do(outbox: Outbox) -> None:
    # A disk that went read-only; SQLite answers an append with the same code.
    outbox._file.connection.execute("PRAGMA query_only = ON")
    with pytest.raises(LakehouseRpcError, match="readonly database; nothing was changed"):
        outbox.append(entries(1))


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutboxCorruptError, match="create its folder"):
        Outbox(tmp_path / "missing" / "outbox.db")


def test_a_closed_outbox_says_so_and_may_be_closed_again(outbox: Outbox) -> None:
    outbox.close()
    outbox.close()
    with pytest.raises(LakehouseRpcError, match="closed"):
        outbox.append(entries(1))


def test_many_threads_append_while_one_drains(outbox: Outbox) -> None:
    def write(start: int) -> None:
        for number in range(start, start + 50):
            outbox.append([entry(number)])

    writers = [threading.Thread(target=write, args=(1000 * number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    while any(writer.is_alive() for writer in writers) or outbox.pending_entries:
        if (batch := outbox.cut(entries_max=7, bytes_max=MIB)) is not None:
            seen += row_ids(batch)
            outbox.ack(batch.sequence)
    assert sorted(seen) == [1000 * number + step for number in range(4) for step in range(50)]
    assert all([n for n in seen if n // 1000 == k] == list(range(1000 * k, 1000 * k + 50)) for k in range(4))


def test_a_call_that_comes_after_closing_does_not_keep_the_file_from_others(tmp_path):
    path = tmp_path / "outbox.sqlite3"
    closed = Outbox(path)
    closed.close()
    with pytest.raises(LakehouseRpcError):
        closed.cut(entries_max=1, bytes_max=1000)
    with Outbox(path) as other:
        assert other.cut(entries_max=1, bytes_max=1000) is None
