"""The outbox: one SQLite file in which a child's entries wait until their parent has acknowledged them.

    append -> entry (uncut) -> cut -> batch (unacked) -> ack    -> gone
                                                      -> reject -> dead letter -> revive -> entry (uncut)

Entries are numbered here and never move; a batch is only a range of them, written down before anybody sees it, so that
a restart sends the same cut again, byte for byte. Whatever process dies when, an entry that `append` returned for is
uncut, in a batch, or a dead letter (unless it was told to drop the oldest ones when full). The network is not known
here, nor when a batch should be cut.

Measured (one core, 19 columns, 1000 entries): append 5.5 ms with its fsync, cut 3.4 ms with its own, ack 0.6 ms without
one. An entry appended alone takes 0.20 ms, and 0.04 ms when it shares its fsync.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from rpc import columns, entry_digest
from rpc import outbox_batches as batches
from rpc import outbox_dead_letters as letters
from rpc import outbox_digest as digests
from rpc import outbox_opening as opening
from rpc import outbox_repeats as repeats
from rpc.clock import now_ms as wall_clock_ms
from rpc.config import MIB
from rpc.entries import U16_MAX, RawEntry, count_of
from rpc.entry_digest import Sums
from rpc.failpoints import Failpoint, reach
from rpc.negotiation import FALLBACK, PayloadEncoding
from rpc.outbox_batches import Kept, OutboxBatch
from rpc.outbox_damage import batch_lacks
from rpc.outbox_dead_letters import DeadLetter
from rpc.outbox_file import Fsync, OutboxBusyError, OutboxFile, number, set_number
from rpc.outbox_intake import Intake
from rpc.outbox_meter import Meter
from rpc.outbox_room import DropLog, OutboxFull, OutboxTooSmallError, Room
from rpc.outbox_rows import ENTRY_BYTES_MAX, I64_MAX, SELECT, Row, row_bytes, within
from rpc.shapes import Shape, Shaped

__all__ = [
    "DeadLetter",
    "Outbox",
    "OutboxBatch",
    "OutboxBusyError",
    "OutboxFull",
    "OutboxTooSmallError",
    "wall_clock_ms",
]


class Outbox(Intake):
    """Safe to call from several threads. Only one process at a time may cut, ack, reject or revive.

    `bytes_max` bounds what is appended, and `when_full` says what an append does that would pass it; the triggers of a
    captured database are not bound. With `fsync_within_ms` above 0 an append does not wait for the disk: the death of
    the process loses nothing, a power cut what was appended so many ms before, and never what is in a batch.
    With `keep_corrupt_aside` a damaged file is renamed to `<path>.corrupt-<ms>`, for rpc.outbox_salvage to read, and an
    empty one begins with a higher epoch; it is looked for damage when it is opened. Nobody else may have it open then.
    """

    written_by_others: ClassVar[bool] = False
    """Entries may appear without `append`, so that a client has to look now and then."""

    def __init__(
        self,
        path: str | Path,
        *,
        bytes_max: int = 1024 * MIB,
        now_ms: Callable[[], int] = wall_clock_ms,
        fsync_within_ms: int = 0,
        when_full: OutboxFull = OutboxFull.RAISE,
        keep_corrupt_aside: bool = False,
    ) -> None:
        self.path = Path(path)
        self.bytes_max = bytes_max
        self.when_full = OutboxFull(when_full)
        self._now_ms = now_ms
        self._meter = Meter()
        self._room = Room()
        self._drops = DropLog()
        self._file = OutboxFile(
            path,
            ours=not self.written_by_others,
            fsync_within_ms=fsync_within_ms,
        )
        try:
            if keep_corrupt_aside:
                opening.open_or_put_aside(self._file, now_ms=now_ms)
            else:
                self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        opening.open_ours(self._file, now_ms=self._now_ms())

    def cut(self, *, entries_max: int, bytes_max: int, shape: Shape | None = None) -> OutboxBatch | None:
        """Make a batch of the oldest uncut entries, durable when this returns; None when there are none.

        A batch has at most `bytes_max` unless a single entry is larger; an entry too large for any message becomes a
        dead letter and the next ones are cut. `shape` makes another payload than columns.
        """
        bytes_max = min(bytes_max, ENTRY_BYTES_MAX)
        with self._file.draining():
            while (batch := self._cut(entries_max=entries_max, bytes_max=bytes_max, shape=shape)) is not None:
                if len(batch.payload) <= ENTRY_BYTES_MAX + 2 * U16_MAX:
                    self._room.made()  # in columns it is smaller
                    reach(Failpoint.OUTBOX_WRITTEN)
                    return batch
                reason = f"entry {batch.first} has {len(batch.payload)} bytes; at most {ENTRY_BYTES_MAX} fit a message"
                self._bury(batch, reason)
        return None

    def unacked(self, *, after: int = 0, limit: int = 100) -> list[OutboxBatch]:
        """Batches cut and not acknowledged, with sequences above `after`, oldest first, as they were cut."""
        with self._file.draining() as connection:
            return [self._rebuilt(connection, kept) for kept in batches.listed(connection, after=after, limit=limit)]

    def ack(self, sequence: int) -> None:
        """Forget this batch; one that is not here is forgotten already."""
        reach(Failpoint.ACK_LOST)
        self._forget("sequence = ?", sequence)

    def ack_through(self, sequence: int) -> None:
        """Forget every batch up to and with this one."""
        self._forget("sequence <= ?", sequence)

    def reject(self, sequence: int, reason: str) -> None:
        """Move this batch to the dead letters, whole."""
        for batch in self.unacked(after=sequence - 1, limit=1):
            if batch.sequence == sequence:
                self._bury(batch, reason)

    def revive(self, sequence: int) -> int:
        """Append the entries of this dead letter again, behind all others and with new sequences; returns how many."""
        with self._file.draining(), self._file.writing() as connection:
            entries = letters.taken(connection, sequence)
            self._insert(connection, entries)
            repeats.moved(connection, [entry.sequence for entry in entries])
        return len(entries)

    def drop_dead_letter(self, sequence: int) -> None:
        """Forget this dead letter for good; what it had may be appended again."""
        with self._file.draining(), self._file.writing() as connection:
            repeats.given_up(connection, [entry.sequence for entry in letters.taken(connection, sequence)])
        self._room.made()

    def renew_epoch(self, *, resume_after: int = 0, above: int = 0) -> int:
        """Begin a new, higher epoch, whose first batch is `resume_after` + 1; every unacked entry is uncut again.

        For a file that came back from a backup: its parent knows more sequences than the file does.
        """
        with self._file.draining(), self._file.writing() as connection:
            epoch = max(number(connection, "epoch") + 1, above + 1, self._now_ms())
            batches.uncut_all(connection)
            digests.forget_all(connection)
            set_number(connection, "last_sequence", resume_after)
            set_number(connection, "epoch", epoch)
        return epoch

    def close(self) -> None:
        """Close the file and let another process drain it; closing twice is fine."""
        self._file.close()
        self._room.made()  # who waits finds it closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _entries(self, rows: list[Row]) -> list[RawEntry]:
        """The entries of these rows as they travel: a pure function of the rows, for a batch is built twice."""
        return list(map(RawEntry._make, rows))

    def _cut(self, *, entries_max: int, bytes_max: int, shape: Shape | None) -> OutboxBatch | None:
        while True:
            after = self._number("cut_through")
            with self._file.reading() as connection:
                found = connection.execute(SELECT, (after + 1, I64_MAX))
                rows = list(within(islice(found, entries_max), bytes_max))
                found.close()
            if not rows:
                return None
            shaped = self._shaped(rows, shape)
            sums = self._sums(rows, shaped)
            with self._file.writing() as connection:
                if number(connection, "cut_through") != after:
                    continue  # another process made room by dropping some of these
                digests.prepare(connection)
                batch = batches.put(connection, rows, shaped, after=after)
                digests.put(connection, batch.sequence, sums)
                digests.note_typed(connection, entry_digest.typed_tables(shaped.payload, shaped.encoding))
            self._meter.cut(after=after, last=batch.last, size_bytes=sum(map(row_bytes, rows)))
            return batch

    def _shaped(self, rows: list[Row], shape: Shape | None) -> Shaped:
        shaped = Shaped(FALLBACK, columns.encode(self._entries(rows)))
        if shape is not None and len((made := shape(shaped.payload)).payload) <= ENTRY_BYTES_MAX:
            return made
        return shaped

    def _sums(self, rows: list[Row], shaped: Shaped) -> Sums:
        if shaped.encoding is FALLBACK:
            return entry_digest.of_entries(self._entries(rows), epoch=self.epoch)
        return entry_digest.of_payload(shaped.payload, shaped.encoding, epoch=self.epoch)

    def _rebuilt(self, connection: sqlite3.Connection, kept: Kept) -> OutboxBatch:
        sequence, first, last, entries, encoding, payload = kept
        if encoding is not None and payload is not None:
            return OutboxBatch(sequence, payload, entries, first, last, PayloadEncoding(encoding.decode()))
        whole = self._columns(connection, first, last)
        if (found := count_of(whole)) != entries:
            raise self._file.damaged(batch_lacks(sequence, entries, found))
        return OutboxBatch(sequence, whole, entries, first, last)

    def _columns(self, connection: sqlite3.Connection, first: int, last: int) -> bytes:
        return columns.encode(self._entries(connection.execute(SELECT, (first, last)).fetchall()))

    def _bury(self, batch: OutboxBatch, reason: str) -> None:
        with self._file.writing() as connection:
            payload = batch.payload
            if batch.encoding is not FALLBACK:
                payload = self._columns(connection, batch.first, batch.last)
            letters.put(connection, DeadLetter(batch.sequence, reason, self._now_ms(), batch.entries, payload))
            connection.execute("DELETE FROM _evodb_change WHERE id BETWEEN ? AND ?", (batch.first, batch.last))
            connection.execute("DELETE FROM _evodb_batch WHERE sequence = ?", (batch.sequence,))
            digests.forget(connection, batch.sequence)

    def _forget(self, which: str, sequence: int) -> None:
        # An ack that a power cut forgets is asked for again and answered "duplicate": not worth an fsync.
        with self._file.draining(), self._file.writing(Fsync.NEVER) as connection:
            span = batches.span(connection, which, sequence)
            if span is None:
                return
            first, last = span
            digests.acked(connection, which, sequence)
            batches.forget(connection, which, sequence, first=first, last=last)
            if repeats.is_used(connection):
                repeats.acked(connection, first=first, last=last)
        self._room.made()
