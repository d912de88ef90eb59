"""One flush, walked from claim to commit. Read aloud, it is the specification.

Files are written outside of any lock. Then one transaction swaps the pointers of all tables, marks the batches and
numbers the commit: a death before it leaves files nobody points to, a death after it leaves nothing to do. In a catalog
that is not ours the tables move before it, one by one, and whoever takes over finishes that flush (catalog.foreign).

While the breaker says that the store is away, the rows are kept in the database instead, raw, because the schemas of
their tables cannot be read: one transaction keeps them, marks the batches and frees the buffer. `fallback.transfer`
brings them into their tables later.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
from django.db import transaction

from lakehouse import memory
from lakehouse.catalog import refusals
from lakehouse.catalog.lake import Lake
from lakehouse.catalog.tables import Staged
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict, OutcomeUnknown, StoreUnavailable, TableRefused
from lakehouse.events import namespaces, table
from lakehouse.fallback.objects import StoredRows
from lakehouse.fallback.rows import DatabaseStorage
from lakehouse.fallback.storage import FallbackStorage
from lakehouse.flush import (
    breaker_row,
    claim,
    crowd,
    digests,
    fuse,
    fuse_box,
    inbox,
    payloads,
    raw,
    room,
    shred,
    table_rules,
)
from lakehouse.flush.breaker import Way
from lakehouse.flush.claim import Claim, Terms
from lakehouse.flush.fuse import Counted
from lakehouse.flush.inbox import Drift
from lakehouse.flush.policy import FlushTrigger
from lakehouse.flush.raw import Raw, RawRows
from lakehouse.flush.shred import Shredded
from lakehouse.journal import child_tables
from lakehouse.renewal import renewed
from rpc.config import ParentConfig
from rpc.errors import BufferOverflowError
from rpc.failpoints import Failpoint, reach

log = logging.getLogger(__name__)

IN_FALLBACK = "the object store is away; the rows wait in the fallback"


@dataclass(frozen=True, slots=True)
class Flushed:
    flush_id: int
    commit_number: int | None
    """None: the rows are in the fallback."""
    batches: int
    entries: int
    dead_letters: int
    staged: list[Staged]


@dataclass(frozen=True, slots=True)
class Flusher:
    """What a worker brings along: its name, its limits, its lake and its clock."""

    owner: str
    settings: Settings
    lake: Lake
    now_ms: Callable[[], int]

    def run(self, parent_id: int, *, trigger: FlushTrigger) -> Flushed | None:
        """Flush the oldest batches of a parent; None when nothing waits or somebody else is at it."""
        terms = Terms(
            owner=self.owner,
            trigger=trigger,
            lease_ms=self.settings.lease_ms,
            entries_max=self.settings.flush_entries_max,
            bytes_max=self.settings.flush_bytes_max,
        )
        claimed = claim.take(parent_id, terms, now_ms=self.now_ms())
        if claimed is None:
            return None
        reach(Failpoint.CLAIMED)
        try:
            with self._leased(claimed):
                flushed = self._move(claimed)
        except BufferOverflowError as exc:
            log.error("flush %d keeps nothing, its batches wait in the journal: %s", claimed.flush_id, exc)
            claim.give_back(claimed, error=str(exc), now_ms=self.now_ms())
            return None
        except BaseException as exc:
            if isinstance(exc, OutcomeUnknown):
                fuse_box.blow(claimed, str(exc), now_ms=self.now_ms())
            claim.give_back(claimed, error=f"{type(exc).__name__}: {exc}", now_ms=self.now_ms())
            raise
        finally:
            memory.give_back()
        reach(Failpoint.COMMITTED)
        self.lake.tidy(flushed.staged)
        payloads.forget(parent_id, held_bytes_max=self.settings.subscription_backlog_bytes_max)
        reach(Failpoint.ANNOUNCED)
        where = f"commit {flushed.commit_number}" if flushed.commit_number else "in the fallback"
        log.info(
            "flush %d (%s): %d entries of %d batches in %d tables, %s",
            *(flushed.flush_id, trigger, flushed.entries, flushed.batches, len(flushed.staged), where),
        )
        return flushed

    def _leased(self, claimed: Claim) -> AbstractContextManager[None]:
        """A lost lease is noticed where it counts, at the commit."""
        lease_ms = self.settings.lease_ms
        return renewed(
            lambda: claim.renew(claimed, now_ms=self.now_ms(), lease_ms=lease_ms),
            term_ms=lease_ms,
            what=f"the lease of flush {claimed.flush_id}",
        )

    def _move(self, claimed: Claim) -> Flushed:
        """Into the lake, or into the fallback when the breaker says so."""
        patience = breaker_row.patience_of(self.settings)
        passage = breaker_row.enter(patience, owner=self.owner, now_ms=self.now_ms())
        if passage.way is Way.FALLBACK and claimed.is_resumed:
            raise StoreUnavailable(f"flush {claimed.flush_id} is in doubt, and nobody asks the catalog now")
        if passage.way is Way.FALLBACK:
            return self._keep(claimed)
        with breaker_row.watched(passage, patience, now_ms=self.now_ms):
            return self._persist(claimed)

    def _read(self, claimed: Claim) -> tuple[Claim, list[Counted], Raw]:
        """What is claimed, or as much of it as may be in memory when it has become rows; the rest waits again."""
        while True:
            batches = claim.read(claimed)
            counted, read = fuse.counted(batches), raw.read(batches)
            del batches  # They are in memory twice until here.
            if (crowded := read.sheet.crowded) is None or claimed.is_resumed:
                break
            del read
            claimed = crowd.shorten(claimed, crowded)
        assert read.entries == claimed.entries, f"read {read.entries} of {claimed.entries} entries"
        return claimed, counted, read

    def _keep(self, claimed: Claim) -> Flushed:
        """Raises BufferOverflowError when the fallback is full or off."""
        if not self.settings.fallback_bytes_max:
            raise BufferOverflowError("the object store is away and the fallback is off (EVODB_FALLBACK_BYTES_MAX=0)")
        claimed, counted, read = self._read(claimed)
        fuse_box.check(claimed, counted, read.unreadable, self.settings, now_ms=self.now_ms())
        packed, kept = self._packed(claimed, read.tables)
        reach(Failpoint.SHREDDED)
        unreadable = read.unreadable
        with transaction.atomic():
            self._storage(claimed).keep(packed)
            claim.finish_in_fallback(claimed, kept, unreadable, error=IN_FALLBACK, now_ms=self.now_ms())
            child_tables.add(claimed.parent_id, claimed.flush_id, (), unreadable)
            reach(Failpoint.FALLBACK_WRITTEN)
        return Flushed(claimed.flush_id, None, claimed.batches, claimed.entries, len(unreadable), [])

    def _storage(self, claimed: Claim) -> FallbackStorage:
        most = self.settings.fallback_bytes_max
        return FallbackStorage(DatabaseStorage(claimed.parent_id), max_bytes=most, now_ms=self.now_ms)

    def _packed(self, claimed: Claim, tables: Sequence[RawRows]) -> tuple[list[StoredRows], set[int]]:
        """As the fallback keeps them, and the batches they came in."""
        storage, packed, kept = self._storage(claimed), [], set[int]()
        for one in tables:
            ids = raw.batch_ids(one.rows)
            kept.update(ids)
            rows = storage.pack(claimed.namespace, one.table, raw.to_keep(one))
            packed.append(replace(rows, batches=array("Q", ids).tobytes(), flush_id=claimed.flush_id))
        return packed, kept

    def _persist(self, claimed: Claim) -> Flushed:
        """The rows of a table that takes none wait in the fallback, and the others go on."""
        claimed, counted, read = self._read(claimed)
        known, refused = self.lake.known_schemas(claimed.namespace, [one.table for one in read.tables])
        while refused:
            read = self._without(claimed, read, refused.pop(0))
        while True:
            try:
                return self._land(claimed, counted, read, known)
            except TableRefused as exc:
                read = self._without(claimed, read, exc)

    def _without(self, claimed: Claim, read: Raw, refused: TableRefused) -> Raw:
        """Its rows wait in the fallback, and where there is none they are dead letters."""
        if all(one.table != refused.table for one in read.tables):
            raise refused
        log.warning("flush %d goes on without the rows of a table: %s", claimed.flush_id, refused)
        if self.settings.fallback_bytes_max:
            return read.without(refused.table)
        return read.refusing({refused.table}, str(refused))

    def _land(self, claimed: Claim, counted: Sequence[Counted], read: Raw, known: Mapping[str, pa.Schema]) -> Flushed:
        parent = claimed.parent
        if holds_events := namespaces.holds_events(parent.name):
            known = table.with_ours(known)
        config = parent.settings
        kept = room.within(self.lake, read, known, namespace=claimed.namespace, tables_max=config.tables_max)
        rules_of = table_rules.of(parent)
        fuse_of = None if parent.fuse_accepted else self.settings
        shredded = shred.typed_of(kept, known, rules_of, partial(refusals.of, claimed.namespace), fuse_of)
        if holds_events:
            shredded = replace(shredded, tables=table.completed(shredded.tables))
        drift = inbox.drift_of(shredded.tables, known, rules_of)
        memory.give_back()
        reach(Failpoint.SHREDDED)
        assert shredded.entries == claimed.entries, f"shredded {shredded.entries} of {claimed.entries} entries"
        fuse_box.check(claimed, counted, shredded.unreadable, self.settings, now_ms=self.now_ms())
        parquet = parquet_of(config)
        rows = {name: shred.stamped(one, claimed.flush_id) for name, one in shredded.tables.items()}
        waiting = self._packed(claimed, read.aside) if read.aside else ([], set[int]())
        for attempt in range(1, self.settings.commit_attempts_max + 1):
            staged = self.lake.land(claimed.move, rows, parquet)
            try:
                number = self._commit(claimed, staged, shredded, drift, *waiting)
            except CommitConflict as exc:
                # Somebody else wrote to the table meanwhile: these files are lost, the rows are not.
                if attempt == self.settings.commit_attempts_max:
                    raise
                log.warning("flush %d stages anew: %s", claimed.flush_id, exc)
            else:
                break
        return Flushed(claimed.flush_id, number, claimed.batches, claimed.entries, len(shredded.unreadable), staged)

    def _commit(
        self,
        claimed: Claim,
        staged: list[Staged],
        shredded: Shredded,
        drift: Drift,
        waiting: Sequence[StoredRows],
        kept: Collection[int],
    ) -> int:
        sums = digests.of_tables(shredded.tables)
        with transaction.atomic():
            if waiting:
                self._storage(claimed).keep(waiting)
            number = claim.finish(claimed, staged, shredded.unreadable, kept=kept, now_ms=self.now_ms())
            child_tables.add(claimed.parent_id, claimed.flush_id, sums, shredded.unreadable)
            inbox.note(claimed.parent_id, drift, now_ms=self.now_ms())
            reach(Failpoint.MARKED)
            self.lake.seal(claimed.move, staged)
            reach(Failpoint.SWAPPED)
        return number


def parquet_of(config: ParentConfig) -> dict[str, str]:
    """A parent's files, in the words of Iceberg."""
    return {
        "write.parquet.compression-codec": _CODECS[config.parquet_compression],
        "write.parquet.row-group-limit": str(config.parquet_row_group_size),
    }


_CODECS = {"snappy": "snappy", "zstd": "zstd", "gzip": "gzip", "none": "uncompressed"}
