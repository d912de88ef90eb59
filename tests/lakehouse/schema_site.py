"""A child that sends documents, a worker that flushes them, and readers of the table they become."""

from __future__ import annotations

import json
from typing import Any

from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import IcebergType, NestedField, TimestamptzType

from lakehouse.catalog.lakes import chosen
from lakehouse.catalog.own import OwnLake
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import Accepted, Source, Verdict, accept
from lakehouse.models import DeadLetter, IcebergTable, Parent, TableSchema
from lakehouse.query import duck
from rpc.entries import RawEntry
from tests.builders import NOW_MS, frame, parent, source


class Street:
    """One child, one parent, one table."""

    def __init__(self, settings: Settings) -> None:
        lake = chosen(settings)
        assert isinstance(lake, OwnLake)
        self.settings, self.lake, self.sent, self.batches = settings, lake, 0, 0
        self.home: Parent = parent()
        self.shop: Source = source(self.home)

    def schema(self, **fields: Any) -> TableSchema:
        """Register one, or change the one there is."""
        row = TableSchema.objects.filter(table="orders").first() or TableSchema(parent=self.home, table="orders")
        for name, value in fields.items():
            setattr(row, name, value)
        row.full_clean()
        row.save()
        return row

    def send(self, *documents: Any) -> Verdict:
        """One batch of these documents, values or JSON texts."""
        texts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in documents]
        first = self.sent + 1
        entries = [
            RawEntry(first + at, NOW_MS, 0, b"orders", b"r%d" % (first + at), b"", text)
            for at, text in enumerate(texts)
        ]
        (verdict,), _ = accept([(self.shop, frame(self.batches + 1, entries))], now_ms=NOW_MS)
        if isinstance(verdict, Accepted):
            self.sent, self.batches = self.sent + len(texts), self.batches + 1
        return verdict

    def flush(self, *documents: Any) -> None:
        """One batch and its flush."""
        verdict = self.send(*documents)
        assert isinstance(verdict, Accepted), verdict
        worker = Flusher("worker", self.settings, self.lake, lambda: NOW_MS)
        flushed = worker.run(self.home.pk, trigger=FlushTrigger.MANUAL)
        assert flushed is not None
        assert flushed.entries == len(documents)
        assert not DeadLetter.objects.exists()

    def foreign_table(self, **columns: IcebergType) -> None:
        """One that somebody else made in our catalog."""
        fields = [NestedField(n, name, one) for n, (name, one) in enumerate(columns.items(), start=2)]
        self.lake.catalog.create_namespace_if_not_exists("lake")
        self.lake.catalog.create_table("lake.orders", Schema(NestedField(1, "_ts", TimestamptzType()), *fields))

    @property
    def table(self) -> Table:
        return self.lake.catalog.load_table("lake.orders")

    def rows(self, *names: str) -> list[tuple[Any, ...]]:
        """As DuckDB reads them, in the order they were sent; pyiceberg has to agree on how many there are."""
        pointer = IcebergTable.objects.get(name="orders")
        columns = ", ".join(f'"{name}"' for name in names)
        with duck.connect(self.settings) as connection:
            place = duck.scan(pointer.metadata_location)
            found = connection.execute(f"SELECT {columns} FROM {place} ORDER BY _seq").fetchall()
        assert len(found) == len(self.table.scan().to_arrow()) == self.sent
        return found

    def rest(self) -> list[Any]:
        return [None if text is None else json.loads(text) for (text,) in self.rows("_rest")]

    def columns(self) -> dict[str, str]:
        return {f.name: str(f.field_type) for f in self.table.schema().fields if not f.name.startswith("_")}
