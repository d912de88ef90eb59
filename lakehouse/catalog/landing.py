"""One table's share of a flush on its way into a foreign catalog, from the first look to the note that it is there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from lakehouse.catalog import drafts, foreign_tables, intents
from lakehouse.catalog.drafts import Draft, Stamping
from lakehouse.catalog.lake import Move
from lakehouse.errors import CommitConflict, OutcomeUnknown, StoreUnavailable
from lakehouse.flush import outcome
from lakehouse.flush.outcome import Absent, Unknown
from lakehouse.models import ForeignCommit
from rpc.failpoints import Failpoint, reach

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Landing:
    catalog: Catalog
    move: Move
    marker: str
    rows: pa.Table
    parquet: Mapping[str, str]
    commit: ForeignCommit
    attempts_max: int

    def bring(self, draft: Draft | None) -> None:
        """Look and append until the rows are there. A first draft is of a handle from before the announcing."""
        error: Exception | None = None
        for _ in range(self.attempts_max):
            table = draft.table if draft else self._load()
            if self._is_in(table):
                return
            error = self._append(draft or self._draft(table))
            if error is None:
                return
            draft = None
            if not isinstance(error, CommitFailedException):
                break
        if self._is_in(self._load()):
            return
        if isinstance(error, CommitFailedException):
            raise CommitConflict(f"{self.commit} was overtaken {self.attempts_max} times: {error}") from error
        raise StoreUnavailable(f"{self.commit} was not taken: {type(error).__name__}: {error}") from error

    def _load(self) -> Table:
        table = foreign_tables.find(self.catalog, self.commit.namespace, self.commit.table)
        if table is None:
            intents.check_open(self.move)
            self._ask("the table is gone")
        return table

    def _is_in(self, table: Table) -> bool:
        """The journal is asked after the table was loaded, or a flush that is over could be taken for absent."""
        intents.check_open(self.move)
        found = outcome.look_up(intents.announced_of(self.commit), foreign_tables.seen(table, self.marker))
        if isinstance(found, Absent):
            return False
        if isinstance(found, Unknown):
            self._ask(found.why)
        self.commit.snapshot_id = found.snapshot_id or self.commit.snapshot_id
        self.commit.metadata_location = table.metadata_location
        self._compare(table)
        intents.note_landed(self.commit)
        return True

    def _draft(self, table: Table) -> Draft:
        stamping = Stamping(self.marker, self.commit.stamp, self.move.flush_id)
        return drafts.make(table, self.rows, stamping, self.parquet)

    def _append(self, draft: Draft) -> Exception | None:
        """Send it, once. Returns what came back in place of success; only a look tells what that means."""
        reach(Failpoint.FOREIGN_APPENDING)
        try:
            location = drafts.append(self.catalog, draft)
        except Exception as exc:
            log.warning("of the append of %s the catalog says %s: %s; looking", self.commit, type(exc).__name__, exc)
            return exc
        reach(Failpoint.FOREIGN_APPENDED)
        self.commit.snapshot_id, self.commit.metadata_location = draft.snapshot_id, location
        self.commit.files, self.commit.size_bytes = len(draft.files), draft.size_bytes
        intents.note_landed(self.commit)
        return None

    def _ask(self, why: str) -> NoReturn:
        why = f"nobody can tell whether {self.commit} is there: {why}"
        intents.ask(self.commit, why)
        raise OutcomeUnknown(f"{why}. Look at the table and answer: {answers(self.commit)}")

    def _compare(self, table: Table) -> None:
        snapshot = table.metadata.snapshot_by_id(self.commit.snapshot_id)
        added = snapshot.summary.additional_properties.get("added-records") if snapshot and snapshot.summary else None
        if added is not None and int(added) != self.commit.rows:
            self._ask(f"its snapshot added {added} rows, announced were {self.commit.rows}")


def answers(commit: ForeignCommit) -> str:
    """What an operator types."""
    command = f"`manage.py in_doubt --flush {commit.flush_id} --table {commit.table}"
    return f"{command} --landed` if its {commit.rows} rows are there, {command} --absent` if none of them is"
