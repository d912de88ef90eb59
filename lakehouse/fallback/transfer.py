"""Kept rows go into their tables: the store is back, and what flushes kept raw gets the types its table has now.

Like a flush it stages files outside of any lock and commits them in one transaction (`settle`), and like a flush it
may die at any step: before the commit the rows are kept as before, after it they are gone with it.

The rows of a table go in the order in which they were kept, several pieces at a time. A fresh flush may overtake them,
and is not held up: rows of a source have their order by `_epoch` and `_seq`, which came with them, never by the order
of commits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import OperationalError, transaction

from lakehouse.catalog import retention, tables
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.tables import Staged
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict, LeaseLost, StoreUnavailable
from lakehouse.fallback import settle
from lakehouse.fallback.config import RecoveryConfig
from lakehouse.fallback.objects import TableName
from lakehouse.fallback.recovery import FallbackRecoveryManager, Recovered
from lakehouse.fallback.rows import DatabaseStorage
from lakehouse.fallback.settle import Recovery
from lakehouse.fallback.storage import FallbackStorage, WaitingRows
from lakehouse.flush import breaker_row, digests, raw, shred
from lakehouse.flush.breaker import Way
from lakehouse.flush.digests import ChildSum
from lakehouse.flush.entries import Unreadable
from lakehouse.flush.flow import parquet_of
from lakehouse.journal import child_tables
from lakehouse.models import Parent
from rpc.failpoints import Failpoint, reach

log = logging.getLogger(__name__)

PIECES_MAX = 1000
"""In one commit; more would be more than one query may name."""
BLAMELESS = (StoreUnavailable, CommitConflict, LeaseLost, OperationalError)


@dataclass(slots=True)
class Transfer:
    """What a worker brings along, as a Flusher does, for one parent."""

    parent_id: int
    owner: str
    settings: Settings
    catalog: DjangoCatalog
    now_ms: Callable[[], int]
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
        patience = breaker_row.patience_of(self.settings)
        chunk = self._chunk(TableName(namespace, table), stamp)
        passage = breaker_row.enter(patience, owner=self.owner, now_ms=self.now_ms())
        if passage.way is Way.FALLBACK:
            raise StoreUnavailable("the breaker is open; nobody asks the object store now")
        with breaker_row.watched(passage, patience, now_ms=self.now_ms):
            recovery = settle.begin(self.parent_id, chunk, now_ms=self.now_ms())
            try:
                staged = self._persist(recovery, TableName(namespace, table), [one.read() for one in chunk])
            except BaseException as exc:
                settle.abandon(recovery, error=f"{type(exc).__name__}: {exc}", now_ms=self.now_ms())
                raise
        tables.tidy(self.catalog, staged)
        self.rows += sum(one.rows for one in staged)

    def _chunk(self, name: TableName, stamp: int) -> list[WaitingRows]:
        """These rows and what is kept behind them, as much as one flush takes. What failed before goes alone."""
        chunk: list[WaitingRows] = []
        rows = size_bytes = 0
        for waiting in self._storage().oldest_first(name):
            rows += waiting.stored.rows
            size_bytes += waiting.read().nbytes
            is_first = not chunk
            if not is_first and (
                len(chunk) == PIECES_MAX
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

    def _persist(self, recovery: Recovery, name: TableName, parts: Sequence[Any]) -> list[Staged]:
        kept = raw.kept(name.table, parts)
        known = tables.known_schemas(self.catalog, name.namespace, [name.table]).get(name.table)
        rows, complaints = shred.type_rows(kept, known)
        unreadable = [kept.letter(index, reason) for index, reason in sorted(complaints.items())]
        terms: tables.Terms = {
            "flush_id": recovery.flush_id,
            "parquet": parquet_of(Parent.objects.get(pk=self.parent_id).settings),
            "retention": retention.from_settings(self.settings),
        }
        sums = digests.of_tables({name.table: rows})
        for attempt in range(1, self.settings.commit_attempts_max + 1):
            staged = []
            if len(rows):
                staged = [tables.stage(self.catalog, *name, rows, **terms)]
            reach(Failpoint.RECOVERY_STAGED)
            try:
                number = self._commit(recovery, staged, unreadable, sums)
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

    def _commit(
        self, recovery: Recovery, staged: list[Staged], unreadable: list[Unreadable], sums: list[ChildSum]
    ) -> int:
        with transaction.atomic():
            number = settle.finish(recovery, staged, unreadable, now_ms=self.now_ms())
            child_tables.add(recovery.parent_id, recovery.flush_id, sums, unreadable)
            tables.swap(staged)
            reach(Failpoint.RECOVERY_SWAPPED)
        return number

    def _storage(self) -> FallbackStorage:
        return FallbackStorage(DatabaseStorage(self.parent_id, of_flushes=True), now_ms=self.now_ms)
