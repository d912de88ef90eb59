"""Kept rows go into their tables: the store is back, and what flushes kept raw gets the types its table has now.

Like a flush it stages files outside of any lock and commits them in one transaction (`settle`), and like a flush it
may die at any step: before the commit the rows are kept as before, after it they are gone with it.

The rows of a table go in the order in which they were kept, several pieces at a time. A fresh flush may overtake them,
and is not held up: rows of a source have their order by `_epoch` and `_seq`, which came with them, never by the order
of commits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import OperationalError, transaction

from lakehouse.catalog import refusals
from lakehouse.catalog.lake import Lake, Move
from lakehouse.catalog.tables import Staged
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict, LakehouseError, LeaseLost, StoreUnavailable, TableRefused
from lakehouse.fallback import settle
from lakehouse.fallback.config import RecoveryConfig
from lakehouse.fallback.objects import TableName
from lakehouse.fallback.recovery import FallbackRecoveryManager, Recovered
from lakehouse.fallback.rows import DatabaseStorage
from lakehouse.fallback.settle import Recovery
from lakehouse.fallback.storage import FallbackStorage, WaitingRows
from lakehouse.flush import breaker_row, digests, fuse, fuse_box, inbox, raw, shred, table_rules
from lakehouse.flush.breaker import Way
from lakehouse.flush.claim import by_thousands
from lakehouse.flush.digests import ChildSum
from lakehouse.flush.flow import parquet_of
from lakehouse.flush.fuse import FuseBlown
from lakehouse.flush.inbox import Drift
from lakehouse.flush.raw import RawRows
from lakehouse.flush.unreadable import Unreadable
from lakehouse.journal import child_tables
from lakehouse.models import Batch, Parent
from rpc.arrow_stream import Extent
from rpc.failpoints import Failpoint, reach

log = logging.getLogger(__name__)

PIECES_MAX = 1000
"""In one commit; more would be more than one query may name."""


class KeptUnreadable(LakehouseError):
    """So much of what was kept is unreadable that it must be our mistake; it waits until somebody has looked."""

    code = "KEPT_UNREADABLE"


BLAMELESS = (StoreUnavailable, TableRefused, CommitConflict, LeaseLost, FuseBlown, KeptUnreadable, OperationalError)
"""What costs no attempt. Rows that were tried go piece by piece, and a piece may have too few unreadable ones."""


@dataclass(slots=True)
class Transfer:
    """What a worker brings along, as a Flusher does, for one parent."""

    parent_id: int
    owner: str
    settings: Settings
    lake: Lake
    now_ms: Callable[[], int]
    accepts_letters: bool = False
    """However much is unreadable becomes dead letters; an operator says so."""
    rows: int = field(default=0, init=False)
    """In tables by now."""

    def manager(self) -> FallbackRecoveryManager:
        """It says when and in which order; a worker that went silent is followed by another one as with a lease."""
        patience = RecoveryConfig(retry_delay_ms=self.settings.lease_ms, max_delay_ms=10 * self.settings.lease_ms)
        return FallbackRecoveryManager(self._storage(), self.write, patience, now_ms=self.now_ms, blameless=BLAMELESS)

    def recover(self, *, until_ms: int | None = None) -> Recovered:
        """Everything that may be tried now; nothing begins after `until_ms`."""
        return self.manager().recover(until_ms=until_ms)

    def write(self, namespace: str, table: str, rows: Any, stamp: int) -> None:
        """Bring these rows into their table, and those kept behind them; they are kept no more when this returns."""
        fuse_box.ask(self.parent_id)
        patience = breaker_row.patience_of(self.settings)
        name = TableName(namespace, table)
        bound = settle.begun(self.parent_id, stamp)
        chunk = self._chunk(name, stamp) if bound is None else self._bound(name, bound[1])
        passage = breaker_row.enter(patience, owner=self.owner, now_ms=self.now_ms())
        if passage.way is Way.FALLBACK:
            raise StoreUnavailable("the breaker is open; nobody asks the object store now")
        with breaker_row.watched(passage, patience, now_ms=self.now_ms):
            if bound is None:
                recovery = settle.begin(self.parent_id, chunk, now_ms=self.now_ms())
            else:
                recovery = settle.resume(bound[0], chunk)
            try:
                staged = self._persist(recovery, name, [one.read() for one in chunk])
            except BaseException as exc:
                settle.abandon(recovery, error=f"{type(exc).__name__}: {exc}", now_ms=self.now_ms())
                raise
        self.lake.tidy(staged)
        self.rows += sum(one.rows for one in staged)

    def _chunk(self, name: TableName, stamp: int) -> list[WaitingRows]:
        """These rows and what is kept behind them, as much as one flush takes. What failed before goes alone."""
        chunk: list[WaitingRows] = []
        rows, size_bytes, extent = 0, 0, Extent(0, 0)
        for waiting in self._storage().oldest_first(name):
            part = waiting.read()
            rows, size_bytes = rows + waiting.stored.rows, size_bytes + part.nbytes
            extent = extent.beside(raw.extent(part))
            is_first = not chunk
            if not is_first and (
                len(chunk) == PIECES_MAX
                or extent.is_beyond()
                or rows > self.settings.flush_entries_max
                or size_bytes > self.settings.flush_bytes_max
                or chunk[0].stored.attempts > 1
                or waiting.stored.attempts
            ):
                break
            chunk.append(waiting)
        if not chunk or chunk[0].stamp != stamp:
            raise LeaseLost(f"rows {stamp} of {name} are not the oldest any more; somebody else was faster")
        return chunk

    def _bound(self, name: TableName, stamps: frozenset[int]) -> list[WaitingRows]:
        """The rows of a recovery that is in doubt: these, all of them, and no others."""
        chunk = [waiting for waiting in self._storage().oldest_first(name) if waiting.stamp in stamps]
        if len(chunk) != len(stamps):
            raise LeaseLost(f"{len(chunk)} of {len(stamps)} pieces of {name} are kept; somebody else was faster")
        return chunk

    def _persist(self, recovery: Recovery, name: TableName, parts: Sequence[Any]) -> list[Staged]:
        kept = raw.kept(name.table, parts)
        known = self.lake.known_schemas(name.namespace, [name.table]).get(name.table)
        parent = Parent.objects.get(pk=self.parent_id)
        rules = table_rules.of(parent)(name.table)
        with refusals.of(name.namespace, name.table):
            fuse_of = None if self.accepts_letters else self.settings
            rows, complaints = shred.type_rows(kept, known, rules, fuse_of)
        drift = inbox.drift_of({name.table: rows}, {name.table: known} if known else {}, lambda _: rules)
        self._check(recovery, kept, complaints)
        unreadable = [kept.letter(index, reason) for index, reason in sorted(complaints.items())]
        parquet = parquet_of(parent.settings)
        sums = digests.of_tables({name.table: rows})
        move = recovery.move(name.namespace)
        tables = {name.table: shred.stamped(rows, recovery.flush_id)} if len(rows) else {}
        for attempt in range(1, self.settings.commit_attempts_max + 1):
            staged = self.lake.land(move, tables, parquet)
            reach(Failpoint.RECOVERY_STAGED)
            try:
                number = self._commit(recovery, move, staged, unreadable, sums, drift)
            except CommitConflict as exc:
                if attempt == self.settings.commit_attempts_max:
                    raise
                log.warning("recovery %d stages anew: %s", recovery.flush_id, exc)
            else:
                break
        log.info(
            "recovery %d: %d rows of %s are in their table, %d are dead letters, commit %d",
            *(recovery.flush_id, len(rows), name, len(unreadable), number),
        )
        return staged

    def _check(self, recovery: Recovery, kept: RawRows, complaints: Mapping[int, str]) -> None:
        """What blows the fuse of a flush holds up these rows; the fuse is not blown, for fresh ones are no worse."""
        if not complaints or self.accepts_letters:
            return
        batches = Batch.objects.filter(epoch__lt=0)
        replays = {
            pk
            for some in by_thousands(recovery.batches)
            for pk in batches.filter(pk__in=some).values_list("pk", flat=True)
        }
        batch_of = kept.rows["batch_id"].to_pylist()
        fresh = [row for row in complaints if batch_of[row] not in replays]
        reason = fuse.complaint_of_rows(sum(pk not in replays for pk in batch_of), fresh, self.settings)
        if reason is not None:
            raise KeptUnreadable(
                f"{reason} (the first: {complaints[min(fresh)]}); mend what is wrong, or make them dead letters with "
                "`manage.py recover_fallback --accept`"
            )

    def _commit(
        self,
        recovery: Recovery,
        move: Move,
        staged: list[Staged],
        unreadable: list[Unreadable],
        sums: list[ChildSum],
        drift: Drift,
    ) -> int:
        with transaction.atomic():
            number = settle.finish(recovery, staged, unreadable, now_ms=self.now_ms())
            child_tables.add(recovery.parent_id, recovery.flush_id, sums, unreadable)
            inbox.note(recovery.parent_id, drift, now_ms=self.now_ms())
            self.lake.seal(move, staged)
            reach(Failpoint.RECOVERY_SWAPPED)
        return number

    def _storage(self) -> FallbackStorage:
        return FallbackStorage(DatabaseStorage(self.parent_id, of_flushes=True), now_ms=self.now_ms)
