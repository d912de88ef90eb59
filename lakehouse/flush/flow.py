"""One flush, walked from claim to commit. Read aloud, it is the specification.

Files are written outside of any lock. Then one transaction swaps the pointers of all tables, marks the batches and
numbers the commit: a death before it leaves files nobody points to, a death after it leaves nothing to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from django.db import transaction

from lakehouse.catalog import tables
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.tables import Staged
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict
from lakehouse.flush import claim, heartbeat, shred
from lakehouse.flush.claim import Claim, Terms
from lakehouse.flush.policy import FlushTrigger
from lakehouse.flush.shred import Shredded
from lakehouse.models import Parent
from rpc.failpoints import Failpoint, reach

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Flushed:
    flush_id: int
    commit_number: int
    batches: int
    entries: int
    dead_letters: int
    staged: list[Staged]


@dataclass(frozen=True, slots=True)
class Flusher:
    """What a worker brings along: its name, its limits, its catalog and its clock."""

    owner: str
    settings: Settings
    catalog: DjangoCatalog
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
            with heartbeat.kept(claimed, lease_ms=self.settings.lease_ms, now_ms=self.now_ms):
                flushed = self._persist(claimed)
        except BaseException as exc:
            claim.give_back(claimed, error=f"{type(exc).__name__}: {exc}", now_ms=self.now_ms())
            raise
        reach(Failpoint.COMMITTED)
        tables.tidy(self.catalog, flushed.staged)
        claim.forget_payloads(parent_id)
        reach(Failpoint.ANNOUNCED)
        log.info(
            "flush %d (%s): %d entries of %d batches in %d tables, commit %d",
            *(flushed.flush_id, trigger, flushed.entries, flushed.batches, len(flushed.staged), flushed.commit_number),
        )
        return flushed

    def _persist(self, claimed: Claim) -> Flushed:
        batches = claim.read(claimed)
        known = tables.known_schemas(self.catalog, claimed.namespace, shred.table_names(batches))
        shredded = shred.shred(batches, known)
        reach(Failpoint.SHREDDED)
        assert shredded.entries == claimed.entries, f"shredded {shredded.entries} of {claimed.entries} entries"
        for attempt in range(1, self.settings.commit_attempts_max + 1):
            staged = self._stage(claimed, shredded)
            try:
                number = self._commit(claimed, staged, shredded)
            except CommitConflict as exc:
                # Somebody else wrote to the table meanwhile: these files are lost, the rows are not.
                if attempt == self.settings.commit_attempts_max:
                    raise
                log.warning("flush %d stages anew: %s", claimed.flush_id, exc)
            else:
                break
        return Flushed(claimed.flush_id, number, claimed.batches, claimed.entries, len(shredded.unreadable), staged)

    def _stage(self, claimed: Claim, shredded: Shredded) -> list[Staged]:
        config = Parent.objects.get(pk=claimed.parent_id).settings
        parquet = {
            "write.parquet.compression-codec": _CODECS[config.parquet_compression],
            "write.parquet.row-group-limit": str(config.parquet_row_group_size),
        }
        staged = []
        for name, rows in shredded.tables.items():
            staged.append(
                tables.stage(self.catalog, claimed.namespace, name, rows, flush_id=claimed.flush_id, parquet=parquet)
            )
        return staged

    def _commit(self, claimed: Claim, staged: list[Staged], shredded: Shredded) -> int:
        with transaction.atomic():
            number = claim.finish(claimed, staged, shredded.unreadable, now_ms=self.now_ms())
            reach(Failpoint.MARKED)
            tables.swap(staged)
            reach(Failpoint.SWAPPED)
        return number


_CODECS = {"snappy": "snappy", "zstd": "zstd", "gzip": "gzip", "none": "uncompressed"}
