"""What a child counts of what it had acknowledged: everything once, whatever became of its batches."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rpc import entry_digest, outbox_digest
from rpc.capture.sqlite import SqliteCapture
from rpc.columns import decode
from rpc.entries import RawEntry
from rpc.entry_digest import total
from rpc.negotiation import PayloadEncoding
from rpc.outbox import Outbox, OutboxFull
from rpc.shapes import shape_of
from rpc.verification import Delivered

MIB = 1024 * 1024


def entry(number: int, table: bytes = b"orders") -> RawEntry:
    return RawEntry(0, 1000 + number, 0, table, b"r%d" % number, b"", b'{"id": %d, "price": 1.50}' % number)


def entries(count: int) -> list[RawEntry]:
    return [entry(number, (b"orders", b"items")[number % 2]) for number in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite3"


def look(path: Path) -> Delivered:
    with closing(sqlite3.connect(path)) as connection:
        return outbox_digest.delivered(connection)


def cut(outbox: Outbox, size: int = 3, encoding: PayloadEncoding = PayloadEncoding.COLUMNS):
    found = []
    while (batch := outbox.cut(entries_max=size, bytes_max=MIB, shape=shape_of(encoding))) is not None:
        found.append(batch)
    return found


def sums_of(batches, epoch: int):
    return entry_digest.merged(*(entry_digest.of_payload(b.payload, b.encoding, epoch=epoch) for b in batches))


@pytest.mark.parametrize("encoding", [PayloadEncoding.COLUMNS, PayloadEncoding.MSGPACK, PayloadEncoding.ARROW])
def test_what_was_acknowledged_is_counted_in_the_sums_of_what_travelled(path: Path, encoding: PayloadEncoding) -> None:
    with Outbox(path) as outbox:
        outbox.append(entries(10))
        batches = cut(outbox, encoding=encoding)
        assert {batch.encoding for batch in batches} == {encoding}
        for batch in (batches[2], batches[0]):
            outbox.ack(batch.sequence)
        held = look(path)
        assert held.sums == {outbox.epoch: sums_of([batches[0], batches[2]], outbox.epoch)}
        assert held.unacked == {batch.sequence: sums_of([batch], outbox.epoch) for batch in (batches[1], batches[3])}
        outbox.ack_through(batches[-1].sequence)
        outbox.ack(1)
        held = look(path)
    assert held.sums == {held.epoch: sums_of(batches, held.epoch)}
    assert (held.unacked, held.uncut, held.summed_after) == ({}, 0, None)
    assert total(held.sums[held.epoch])[0] == 10


def test_a_file_knows_which_tables_sent_typed_documents(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.append(entries(4))
        cut(outbox, encoding=PayloadEncoding.MSGPACK)
        assert look(path).typed == frozenset()
        outbox.append([entry(1), entry(2, b"a.b")])
        cut(outbox, encoding=PayloadEncoding.ARROW)
        assert look(path).typed == {(outbox.epoch, "orders"), (outbox.epoch, "a.b")}


def test_a_batch_that_was_refused_is_not_counted_and_its_revived_entries_are(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.append(entries(4))
        first, second = cut(outbox, 2)
        outbox.reject(first.sequence, "no such table")
        outbox.ack(second.sequence)
        assert look(path).sums[outbox.epoch] == sums_of([second], outbox.epoch)
        assert look(path).dead_letters == 2
        outbox.revive(first.sequence)
        (third,) = cut(outbox, 2)
        outbox.ack(third.sequence)
        assert look(path).sums[outbox.epoch] == sums_of([second, third], outbox.epoch)


def test_what_is_sent_again_in_a_new_epoch_is_counted_there_and_only_there(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.append(entries(4))
        first, _ = cut(outbox, 2)
        outbox.ack(first.sequence)
        old, new = outbox.epoch, outbox.renew_epoch()
        assert look(path).unacked == {}
        again = cut(outbox, 2)
        outbox.ack(again[0].sequence)
        assert look(path).sums == {old: sums_of([first], old), new: sums_of(again, new)}


def test_entries_that_gave_way_are_not_counted(path: Path) -> None:
    with Outbox(path, bytes_max=1000, when_full=OutboxFull.DROP_OLDEST) as outbox:
        for number in range(40):
            outbox.append([entry(number)])
        for batch in cut(outbox, 100):
            outbox.ack(batch.sequence)
            assert total(look(path).sums[outbox.epoch])[0] == batch.entries
        assert outbox.dropped_entries == 40 - batch.entries


def test_a_process_that_dies_before_its_ack_is_on_disk_counts_it_with_the_next_one(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.append(entries(2))
        cut(outbox)
    with Outbox(path) as outbox:
        assert total(look(path).unacked[1])[0] == 2
        outbox.ack(1)
        outbox.ack(1)
        assert total(look(path).sums[outbox.epoch])[0] == 2


def test_a_file_of_before_there_were_sums_says_behind_which_entry_they_begin(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.append(entries(6))
        cut(outbox)
        outbox.ack(1)
    with closing(sqlite3.connect(path)) as connection:  # as an older version left it
        for name in outbox_digest.TABLES:
            connection.execute(f"DROP TABLE {name}")
        connection.commit()
    held = look(path)
    assert (held.summed_after, held.summed_epoch, held.unacked) == (6, held.epoch, {2: {}})
    with Outbox(path) as outbox:
        outbox.append(entries(2))
        cut(outbox)
        outbox.ack(2)
        outbox.ack(3)
    held = look(path)
    assert (held.summed_after, held.summed_epoch) == (6, held.epoch)
    assert total(held.sums[held.epoch])[0] == 2


def test_a_captured_database_counts_what_travels_and_not_what_triggers_wrote(tmp_path: Path) -> None:
    app = tmp_path / "app.db"
    with closing(sqlite3.connect(app)) as connection:
        connection.execute("CREATE TABLE photos (id INTEGER PRIMARY KEY, raw BLOB)")
        connection.commit()
        with SqliteCapture(app) as capture:
            capture.attach()
            connection.execute("INSERT INTO photos VALUES (1, x'00ff')")
            connection.commit()
            (batch,) = cut(capture)
            assert b"AP8=" in decode(batch.payload).entries()[0].after
            capture.ack(1)
            assert look(app).sums == {capture.epoch: sums_of([batch], capture.epoch)}
            capture.detach()
        left = connection.execute("SELECT name FROM sqlite_schema WHERE name GLOB '_evodb*'").fetchall()
    assert left == []
