"""A lake to keep in order: tables with commits, and what a reader finds in them and on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from django.db import transaction
from pyarrow.fs import FileSelector, FileType
from pyiceberg.table import Table

from lakehouse.catalog import retention, tables
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.retention import HOUR_MS
from lakehouse.catalog.storage import from_settings
from lakehouse.catalog.upkeep import lease
from lakehouse.catalog.upkeep.lease import Keeper
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.models import IcebergTable
from lakehouse.query import duck
from tests.lakehouse.staging import stage_rows

LEASE_MS = 60_000
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
PARQUET = {"write.parquet.compression-codec": "snappy", "write.parquet.row-group-limit": "100000"}


class Lake:
    """One table, `lake.flights`, unless another is named."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.catalog: DjangoCatalog = from_settings(settings)
        self.written = 0

    def commit(self, times: int = 1, *, each: int = 2, days: int = 1, name: str = "flights", **columns: Any) -> None:
        """As flushes do, forgetting what is too much."""
        for _ in range(times):
            numbers = range(self.written, self.written + each)
            self.written += each
            moments = [NOON + timedelta(days=number % days) for number in numbers]
            rows = pa.table(
                {
                    "_ts": pa.array(moments, pa.timestamp("us", tz="UTC")),
                    "_row_id": [f"r{number * 7919 % 1000}" for number in numbers],
                    "_epoch": pa.array([1] * each, pa.int64()),
                    "_seq": pa.array(numbers, pa.int64()),
                    **columns,
                }
            )
            staged = stage_rows(
                self.catalog,
                "lake",
                name,
                rows,
                flush_id=self.written,
                parquet=PARQUET,
                retention=retention.from_settings(self.settings),
            )
            with transaction.atomic():
                tables.swap([staged])
            tables.tidy(self.catalog, [staged])

    def table(self, name: str = "flights") -> Table:
        return self.catalog.load_table(("lake", name))

    def row(self, name: str = "flights") -> IcebergTable:
        return IcebergTable.objects.select_related("namespace").get(name=name)

    @contextmanager
    def keeper(self, *, hours: int = 0, name: str = "flights") -> Iterator[Keeper]:
        """The lease of the table, by a clock that is so far ahead."""
        with self.lease(hours=hours, name=name) as keeper:
            assert keeper is not None
            yield keeper

    def lease(self, *, hours: int = 0, name: str = "flights") -> AbstractContextManager[Keeper | None]:
        """The same, or None while somebody else has it."""
        ahead_ms = hours * HOUR_MS
        return lease.kept(self.row(name), self.catalog, lease_ms=LEASE_MS, now_ms=lambda: now_ms() + ahead_ms)

    @contextmanager
    def a_flush_is_always_faster(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Whatever a keeper commits, a flush has committed before."""
        commit = Keeper.commit

        def meet(*args: Any, **keywords: Any) -> None:
            self.commit()
            commit(*args, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(Keeper, "commit", meet)
            yield

    def rows(self, name: str = "flights", columns: str = "*") -> Counter[tuple[Any, ...]]:
        """As DuckDB reads them; pyiceberg has to agree."""
        with duck.connect(self.settings) as connection:
            place = duck.scan(self.row(name).metadata_location)
            found = Counter(connection.execute(f"SELECT {columns} FROM {place}").fetchall())
        assert found.total() == len(self.table(name).scan().to_arrow())
        return found

    def files(self, name: str = "flights") -> set[str]:
        """Everything that lies in the table's folder."""
        table = self.table(name)
        fs = table.io.fs_by_scheme(*table.io.parse_location(table.location(), table.io.properties)[:2])
        top = table.io.parse_location(table.location(), table.io.properties)[2]
        found = fs.get_file_info(FileSelector(top, recursive=True))
        return {Path(one.path).name for one in found if one.type is FileType.File}

    def reached(self, name: str = "flights") -> set[str]:
        """Everything the table's metadata leads to, as pyiceberg tells it."""
        table = self.table(name)
        found = {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
        for snapshot in table.snapshots():
            found.add(snapshot.manifest_list)
            for manifest in snapshot.manifests(table.io):
                found.add(manifest.manifest_path)
                found |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io)}
        return {Path(path).name for path in found}
