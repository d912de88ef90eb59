"""How entries come into an outbox: checked, without repeats, and only while there is room."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rpc import outbox_batches as batches
from rpc import outbox_dead_letters as letters
from rpc import outbox_repeats as repeats
from rpc.deduplication import DEFAULT_DEDUP_CONFIG, DedupConfig
from rpc.entries import RawEntry
from rpc.outbox_dead_letters import DeadLetter
from rpc.outbox_file import Fsync
from rpc.outbox_gauges import Gauges
from rpc.outbox_room import DropLog, Dropped, OutboxFull, OutboxTooSmallError, Room, make_room
from rpc.outbox_rows import INSERT, checked_bytes, row_bytes


class Whereabouts(NamedTuple):
    """Of entries that were appended and cut; what is nowhere is acknowledged."""

    batches: list[int]
    """Sequences of batches without an ack, ascending."""
    letters: list[DeadLetter]


class Intake(Gauges):
    """The half of an Outbox that takes."""

    path: Path
    bytes_max: int
    when_full: OutboxFull
    _now_ms: Callable[[], int]
    _room: Room
    _drops: DropLog

    def append(
        self,
        entries: Iterable[RawEntry],
        *,
        wait_s: float | None = None,
        lsns: Sequence[int | None] | None = None,
        dedup: DedupConfig | None = DEFAULT_DEDUP_CONFIG,
    ) -> int:
        """Store these entries durably, all or none, and return how many. Their sequences are given here.

        `lsns` has the lsn of each entry, or None: one that was stored within the window of `dedup` with the same lsn
        and content is not stored again, nor counted. `dedup=None` compares nothing.
        When the outbox or its disk is full, `when_full` says what happens. OutboxFull.WAIT waits, for `wait_s` at
        most, and blocks its thread meanwhile; time over, and in any case when the entries are larger than an outbox,
        BufferOverflowError is raised. Raises ProtocolError for what cannot travel.
        """
        given = list(entries)
        size_bytes = sum(map(checked_bytes, given))
        marks = None if lsns is None else repeats.marks(given, lsns, compared=dedup is not None)
        if size_bytes > self.bytes_max:
            raise OutboxTooSmallError(
                f"{self.path}: {size_bytes} bytes were given at once, bytes_max is {self.bytes_max}; nothing of this "
                "call was kept. Append fewer entries at a time, or raise bytes_max"
            )
        if not given:
            return 0

        def store() -> int:
            return self._append(given, size_bytes) if marks is None else self._append_new(given, marks, dedup)

        return self._room.when_there_is(store, wait_s=wait_s) if self.when_full is OutboxFull.WAIT else store()

    def whereabouts(self, entries: Sequence[RawEntry], lsns: Sequence[int | None]) -> Whereabouts:
        """Where these entries are that were appended with these lsns, now or before."""
        wanted = repeats.marks(entries, lsns, compared=True)
        with self._file.reading() as connection:
            if not repeats.is_used(connection):
                return Whereabouts([], [])
            known = repeats.entries_of(connection, wanted)
            return Whereabouts(batches.holding(connection, known), letters.holding(connection, known))

    def _append(self, given: list[RawEntry], size_bytes: int) -> int:
        with self._file.lock:
            with self._file.writing(Fsync.SOON) as connection:
                dropped = self._make_room(connection, size_bytes)
                self._insert(connection, given)
            self._note(dropped)
        return len(given)

    def _append_new(self, given: list[RawEntry], marks: repeats.Marks, dedup: DedupConfig | None) -> int:
        now_ms = self._now_ms()
        with self._file.lock:
            with self._file.writing(Fsync.SOON) as connection:
                if dedup is not None:
                    places = repeats.new(connection, marks.digests, dedup, now_ms=now_ms)
                    given, marks = [given[at] for at in places], marks.at(places)
                if not given:
                    return 0
                dropped = self._make_room(connection, sum(map(row_bytes, given)))
                self._insert(connection, given)
                repeats.stored(connection, marks, dedup, now_ms=now_ms)
            self._note(dropped)
        return len(given)

    def _note(self, dropped: Dropped | None) -> None:
        if dropped is not None:
            self._meter.cut(after=dropped.after, last=dropped.last, size_bytes=dropped.size_bytes)
            self._drops.note(self.path, dropped.entries, now_ms=self._now_ms())
            self._room.made()

    def _make_room(self, connection: sqlite3.Connection, size_bytes: int) -> Dropped | None:
        held = self.pending_bytes + letters.size_bytes(connection)
        if held + size_bytes <= self.bytes_max:
            return None
        full = f"{self.path} holds {held} bytes, {size_bytes} more would pass bytes_max ({self.bytes_max})"
        dropped = make_room(connection, self.when_full, lacking_bytes=held + size_bytes - self.bytes_max, full=full)
        repeats.forget(connection, after=dropped.after, last=dropped.last)
        return dropped

    def _insert(self, connection: sqlite3.Connection, entries: Iterable[RawEntry]) -> None:
        connection.executemany(INSERT, [entry[1:] for entry in entries])
