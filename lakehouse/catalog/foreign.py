"""The lake over somebody else's catalog: its commits and the journal's are two, so each is announced and looked up.

The protocol and why it is exactly once stand in docs/decisions/0012. In short: the journal knows which tables are about
to be appended to; an append goes out on the very handle that was looked at, once, with the requirement that main has
not moved; whatever comes back but success is looked up; what cannot be told is asked and never taken for "not there".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import pyarrow as pa
from pyiceberg.catalog import Catalog

from lakehouse.catalog import drafts, evolution, foreign_tables, intents, refusals, storage
from lakehouse.catalog.drafts import Draft, Stamping
from lakehouse.catalog.lake import Locations, Move
from lakehouse.catalog.landing import Landing
from lakehouse.catalog.tables import Staged
from lakehouse.conf import Settings
from lakehouse.errors import OutcomeUnknown, TableRefused
from lakehouse.flush import digests, outcome
from lakehouse.models import ForeignCommit
from rpc.entry_digest import NOTHING
from rpc.failpoints import Failpoint, reach


class ForeignLake:
    def __init__(self, open_catalog: Callable[[], Catalog], *, attempts_max: int) -> None:
        """The catalog is opened when it is asked for first, so that a flush is who meets one that is away."""
        self._open = open_catalog
        self._opened: Catalog | None = None
        self._attempts_max = attempts_max

    @property
    def catalog(self) -> Catalog:
        """Raises StoreUnavailable."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def known_schemas(self, namespace: str, names: Iterable[str]) -> tuple[dict[str, pa.Schema], list[TableRefused]]:
        found: dict[str, pa.Schema] = {}
        refused: list[TableRefused] = []
        for name in names:
            try:
                with refusals.of(namespace, name):
                    table = foreign_tables.find(self.catalog, namespace, name)
                    if table is not None:
                        found[name] = evolution.known(table.metadata)
            except TableRefused as exc:
                refused.append(exc)
        return found, refused

    def tables_in(self, namespace: str) -> int:
        return len(foreign_tables.names(self.catalog, namespace))

    def land(self, move: Move, tables: Mapping[str, pa.Table], parquet: Mapping[str, str]) -> list[Staged]:
        """The rows are in their tables when this returns, and the journal still has to be told."""
        marker = intents.marker(move.parent_id, is_recovery=move.is_recovery)
        known = intents.of(move)
        _compare(known, tables)
        made = {
            name: self._draft(move, marker, name, tables[name], parquet)
            for name in sorted(tables.keys() - known.keys())
        }
        reach(Failpoint.METADATA_WRITTEN)
        if made:
            intents.announce(move, [_commit_of(draft) for draft in made.values()])
        reach(Failpoint.FOREIGN_ANNOUNCED)
        staged = []
        for name, commit in sorted(intents.of(move).items()):
            if not commit.is_landed:
                landing = Landing(self.catalog, move, marker, tables[name], parquet, commit, self._attempts_max)
                landing.bring(made.get(name))
            staged.append(_staged(commit))
        return staged

    def seal(self, move: Move, staged: Sequence[Staged]) -> None:
        """The rows are visible already."""
        intents.forget(move)

    def tidy(self, staged: Sequence[Staged]) -> None:
        """Old metadata went with each commit."""

    def locations(self, namespaces: Iterable[str]) -> Locations:
        found: Locations = {}
        for namespace in sorted(set(namespaces)):
            for name in foreign_tables.names(self.catalog, namespace):
                table = foreign_tables.find(self.catalog, namespace, name)
                if table is not None:
                    found.setdefault(namespace, {})[name] = table.metadata_location
        return found

    def rebase(self, commit: ForeignCommit, marker: str) -> None:
        """An operator says that it is not there: it is announced anew, from where its table stands now."""
        table = foreign_tables.find(self.catalog, commit.namespace, commit.table)
        if table is None:
            raise OutcomeUnknown(
                f"there is no table {commit.namespace}.{commit.table} any more, wanted one to bring {commit.rows} rows "
                "to; restore it, or make an empty one"
            )
        intents.rebase(commit, foreign_tables.seen(table, marker))

    def _draft(self, move: Move, marker: str, name: str, rows: pa.Table, parquet: Mapping[str, str]) -> Draft:
        """Everything but the append, of a table that nobody has announced yet."""
        with refusals.of(move.namespace, name):
            table = foreign_tables.find_or_create(self.catalog, move.namespace, name, rows.schema, parquet)
        before = table.properties.get(marker, "")
        if outcome.is_ahead(before, move.flush_id):
            intents.check_open(move)  # a late worker sees the flushes of its successors
            raise OutcomeUnknown(
                f"table {move.namespace}.{name} has {before} under {marker}, and the journal comes to flush "
                f"{move.flush_id} only now; is its database a restored backup, or a copy of one that still runs? "
                "Settle that first, then type `manage.py in_doubt --begin-anew`"
            )
        return drafts.make(table, rows, Stamping(marker, drafts.new_stamp(move.flush_id), move.flush_id), parquet)


def of(settings: Settings) -> ForeignLake:
    """The lake over the catalog of EVODB_CATALOG."""
    return ForeignLake(partial(storage.foreign, settings), attempts_max=settings.commit_attempts_max)


def _commit_of(draft: Draft) -> ForeignCommit:
    stamping, (*namespace, name) = draft.stamping, draft.table.name()
    seen = foreign_tables.seen(draft.table, stamping.marker)
    return ForeignCommit(
        flush_id=stamping.flush_id,
        namespace=".".join(namespace),
        table=name,
        table_uuid=seen.table_uuid,
        base_snapshot_id=seen.main_snapshot_id,
        marker_before=seen.marker,
        stamp=stamping.stamp,
        rows=len(draft.rows),
        digest=_digest(name, draft.rows),
        files=len(draft.files),
        size_bytes=draft.size_bytes,
        snapshot_id=draft.snapshot_id,
    )


def _digest(table: str, rows: pa.Table) -> str:
    found = NOTHING
    for one in digests.of_rows(rows, table=table):
        found += one.sum
    return found.hex


def _compare(known: Mapping[str, ForeignCommit], tables: Mapping[str, pa.Table]) -> None:
    """What is finished has to be what was announced, or what landed would not be what is marked."""
    for name, commit in known.items():
        rows = len(tables[name]) if name in tables else 0
        if rows != commit.rows or _digest(name, tables[name]) != commit.digest:
            raise OutcomeUnknown(
                f"{commit} was announced with {commit.rows} rows and would have {rows} now, or others; let the version "
                "of EvoDB that began it finish it"
            )


def _staged(commit: ForeignCommit) -> Staged:
    return Staged(
        namespace=commit.namespace,
        table=commit.table,
        expected_location=None,
        metadata_location=commit.metadata_location,
        snapshot_id=commit.snapshot_id,
        rows=commit.rows,
        files=commit.files,
        size_bytes=commit.size_bytes,
    )
