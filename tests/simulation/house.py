"""The half of a parent behind its journal: workers that flush and recover, how they die, and what holds at every step.

The workers are the real Flusher and Transfer, with a clock each, over the store of tests.simulation.lake. What has to
come of everything is a set: each entry that was ever journalled, under the batch it came in, is in exactly one place,
which is the journal, the fallback or its table.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
from django.db import connection

from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict, LeaseLost, StoreUnavailable
from lakehouse.fallback.transfer import Transfer
from lakehouse.flush import breaker_row
from lakehouse.flush.breaker import BreakerState
from lakehouse.flush.breaker_row import word
from lakehouse.flush.flow import Flushed, Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import (
    Batch,
    BatchPayload,
    BatchState,
    ChildTable,
    FallbackBatch,
    Flush,
    FlushState,
    FlushTable,
    IcebergTable,
    Parent,
)
from lakehouse.models.flushes import RECOVERY
from lakehouse.models.parents import PastFlushes
from rpc import columns
from rpc.failpoints import Failpoint, FailpointFailed
from tests.simulation.lake import SOMEBODY, Row, Store
from tests.simulation.strikes import AFTER_THE_COMMIT, IN_TRANSACTION, Death, End, Killed, Mishap, armed

T = TypeVar("T")
LEASE_MS = 60_000
"""A thread renews every third of it, in true time; no flush here takes so long."""
FAILURES_MAX = 2
WAITING = (BatchState.PENDING, BatchState.FLUSHING)


@dataclass(frozen=True)
class Journalled:
    source: str
    epoch: int
    sequence: int
    numbers: tuple[int, ...]

    @property
    def rows(self) -> list[Row]:
        return [Row(self.source, self.epoch, self.sequence, number) for number in self.numbers]


class InJournal(NamedTuple):
    state: str
    flush: int | None
    entries: int
    size_bytes: int


class House:
    def __init__(self, folder: Path, parent_id: int, *, clock: Callable[[str], int]) -> None:
        self.parent_id = parent_id
        self.store = Store()
        self.batches: dict[int, Journalled] = {}
        """All that was ever in the journal, by the id it had there."""
        self.happened: Counter[str] = Counter()
        self._clock = clock
        self._settings = Settings(
            data_dir=folder,
            lease_ms=LEASE_MS,
            flush_entries_max=10,
            commit_attempts_max=3,
            breaker_failures_max=FAILURES_MAX,
            breaker_open_ms=5000,
            fallback_bytes_max=30_000,
        )
        self._pieces: dict[int, list[Row]] = {}
        self._checked_at: object = None
        self._looked_at: object = None
        word.forget()

    def close(self) -> None:
        word.forget()

    def flush(self, owner: str, mishap: Mishap | None = None) -> Flushed | None:
        """None: nothing waits or may, or it did not come to its end."""
        self.look()
        flusher = Flusher(owner, self._settings, self.store, lambda: self._clock(owner))
        return self._walk(lambda: flusher.run(self.parent_id, trigger=FlushTrigger.MANUAL), mishap)

    def recover(self, owner: str, mishap: Mishap | None = None, *, reset: bool = False) -> int:
        """As the beat asks for it; returns how many rows are in their tables since."""
        if not breaker_row.is_asked(now_ms=self._clock(owner)):
            return 0
        moving = Transfer(self.parent_id, owner, self._settings, self.store, lambda: self._clock(owner))
        if reset:
            moving.manager().reset()
        self._walk(moving.recover, mishap)
        return moving.rows

    def rewrite(self, which: int) -> None:
        """Somebody compacts a table."""
        found = IcebergTable.objects.select_related("namespace").order_by("pk")
        if found and not self.store.is_away:
            assert self.store.rewrite(found[which % len(found)])

    @property
    def is_done(self) -> bool:
        """Nothing waits for its table."""
        return not Batch.objects.filter(parent=self.parent_id).exclude(state=BatchState.PERSISTED).exists()

    def lease_left_ms(self, owner: str) -> int:
        """How long this worker has to wait for somebody's lease, by its clock."""
        until_ms = Parent.objects.values_list("lease_until_ms", flat=True).get(pk=self.parent_id)
        return max(0, until_ms - self._clock(owner))

    def breaker_left_ms(self, owner: str) -> int:
        """How long until this worker may ask the store, by its clock."""
        row = breaker_row.read()
        until_ms = {BreakerState.OPEN: row.open_until_ms, BreakerState.HALF_OPEN: row.probe_until_ms}
        return max(0, until_ms.get(BreakerState(row.state), 0) - self._clock(owner))

    @property
    def is_idle(self) -> bool:
        """Nothing waits for a flush."""
        return not Parent.objects.values_list("pending_batches", flat=True).get(pk=self.parent_id)

    @property
    def keeps(self) -> bool:
        """Something is in the fallback."""
        return FallbackBatch.objects.exists()

    def journal(self, name: str) -> list[int]:
        """What was ever stored of this child, by epoch and sequence."""
        self.look()
        found = (batch for batch in self.batches.values() if batch.source == name)
        return [
            number
            for batch in sorted(found, key=lambda batch: (batch.epoch, batch.sequence))
            for number in batch.numbers
        ]

    def look(self) -> None:
        """Read what is new in the journal, before a flush takes the bytes away."""
        if self._changes() == self._looked_at:
            return
        new = Batch.objects.filter(pk__gt=max(self.batches, default=0)).order_by("pk")
        rows = new.values_list("pk", "child__name", "epoch", "sequence", "stored__payload")
        for pk, name, epoch, sequence, payload in rows:
            numbers = tuple(json.loads(one.after)["n"] for one in columns.decode(bytes(payload)).entries())
            self.batches[pk] = Journalled(name, epoch, sequence, numbers)
        self._looked_at = self._changes()

    def check(self) -> None:
        """Nothing is lost, doubled or counted wrong, whoever died where."""
        if self._changes() == self._checked_at:
            return
        self.look()
        fields = ("pk", "state", "flush", "entries", "size_bytes")
        batches = {pk: InJournal(*row) for pk, *row in Batch.objects.values_list(*fields)}
        tables = [row for table in IcebergTable.objects.all() for row in self.store.rows(table)]
        in_lake = [row for row in tables if row.source != SOMEBODY]
        assert Counter(tables) - Counter(in_lake) == Counter(self.store.foreign), "somebody's commit is undone"
        parent = Parent.objects.get(pk=self.parent_id)
        self._check_places(batches, in_lake)
        self._check_buffer(batches, parent)
        self._check_flushes(batches, parent, len(in_lake))
        self._checked_at = self._changes()

    def _check_places(self, batches: dict[int, InJournal], in_lake: list[Row]) -> None:
        """Each entry is in exactly one place."""
        wanted = Counter(row for batch in self.batches.values() for row in batch.rows)
        waits = {pk for pk, batch in batches.items() if batch.state in WAITING}
        waiting = [row for pk in waits for row in self.batches[pk].rows]
        kept = self._kept({pk for pk, batch in batches.items() if batch.state == BatchState.FALLBACK})
        found = Counter([*waiting, *in_lake, *kept])
        assert found == wanted, f"lost: {wanted - found}, doubled: {found - wanted}"
        bytes_of = set(BatchPayload.objects.values_list("pk", flat=True))
        assert waits <= bytes_of, f"batches {waits - bytes_of} wait without their bytes"
        counted = Counter[str]()
        for name, entries in ChildTable.objects.values_list("child__name", "entries"):
            counted[name] += entries
        assert counted == Counter(row.source for row in in_lake), f"{counted} entries are said to be in tables"

    def _kept(self, said: set[int]) -> list[Row]:
        """The rows in the fallback; `said` are the batches that say so."""
        pieces = dict(FallbackBatch.objects.values_list("pk", "batches"))
        for pk, payload in FallbackBatch.objects.exclude(pk__in=self._pieces).values_list("pk", "payload"):
            self._pieces[pk] = _rows_of(bytes(payload))
        waits_for = {batch for batch_ids in pieces.values() for batch in array("Q", bytes(batch_ids))}
        assert waits_for == said, f"batches {waits_for} have rows in the fallback, {said} say so"
        return [row for pk in pieces for row in self._pieces[pk]]

    def _check_buffer(self, batches: dict[int, InJournal], parent: Parent) -> None:
        """The parent counts what waits."""
        waiting = [batch for batch in batches.values() if batch.state in WAITING]
        counted = (parent.pending_batches, parent.pending_entries, parent.pending_bytes)
        found = (len(waiting), sum(one.entries for one in waiting), sum(one.size_bytes for one in waiting))
        assert counted == found, f"{counted} batches, entries and bytes are said to wait, in the journal are {found}"

    def _check_flushes(self, batches: dict[int, InJournal], parent: Parent, rows_in_lake: int) -> None:
        """A batch is in one flush at most, only the newest flush may be open, and commits have no gaps."""
        flushes = list(Flush.objects.exclude(state=FlushState.ABANDONED).order_by("pk"))
        held = {one.pk: one.batches for one in flushes if one.state == FlushState.OPEN and one.trigger != RECOVERY}
        assert len(held) <= 1, f"flushes {sorted(held)} are all open"
        claimed = Counter(batch.flush for batch in batches.values() if batch.state == BatchState.FLUSHING)
        assert claimed == held, f"batches by flush {claimed}, open are {held}"
        past = PastFlushes.objects.filter(parent=parent).first() or PastFlushes(commit_number=0)
        numbers = sorted(one.commit_number or 0 for one in flushes if one.state == FlushState.COMMITTED)
        wanted = list(range(past.commit_number + 1, parent.commit_number + 1))
        assert numbers == wanted, f"commits are {numbers}, wanted {wanted}"
        rows = sum(FlushTable.objects.values_list("rows", flat=True)) + sum(rows for rows, _ in past.tables.values())
        assert rows == rows_in_lake, f"flushes say they brought {rows} rows, the lake has {rows_in_lake}"

    def _changes(self) -> object:
        """Differs when something was written to the database (SQLite counts that)."""
        return getattr(connection.connection, "total_changes", None) or object()

    def _walk(self, work: Callable[[], T], mishap: Mishap | None) -> T | None:
        """Do this as a process would to which something happens."""
        if mishap is None:
            with suppress(StoreUnavailable, CommitConflict, LeaseLost):
                return work()
            return None
        death = Death()
        has_lost = False

        def strike(point: Failpoint) -> None:
            nonlocal has_lost
            self.happened[f"{mishap.end.name.lower()} at {point}"] += 1
            if mishap.end is End.KILLED:
                death.has_come = True
                raise Killed
            if mishap.end is End.FAILED:
                raise FailpointFailed(f"{point} was told to fail")
            before = self._lease()
            if point not in IN_TRANSACTION:
                mishap.meanwhile()
            has_lost = self._lease() != before and point not in AFTER_THE_COMMIT

        done = None
        is_armed = armed(mishap.point, mishap.visit, strike)
        with is_armed, connection.execute_wrapper(death), suppress(*ENDS):
            done = work()
        assert not has_lost or not isinstance(done, Flushed), "a worker that lost its lease committed"
        self.happened["woke too late"] += has_lost
        return done

    def _lease(self) -> int:
        return Parent.objects.values_list("lease_epoch", flat=True).get(pk=self.parent_id)


ENDS = (Killed, StoreUnavailable, CommitConflict, LeaseLost, OSError)


def _rows_of(piece: bytes) -> list[Row]:
    """What a piece of the fallback holds."""
    with pa.ipc.open_stream(piece) as reader:
        rows = reader.read_all()
    whose = zip(*(rows[name].to_pylist() for name in ("_source", "_epoch", "_batch_seq", "after")), strict=True)
    return [Row(source, epoch, sequence, json.loads(after)["n"]) for source, epoch, sequence, after in whose]
