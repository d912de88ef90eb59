"""Waiting rows in the database, as the storage behind FallbackStorage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from django.db import transaction
from django.db.models import Min, QuerySet, Sum
from django.db.models.functions import Length

from lakehouse.fallback.objects import StoredRows, TableName
from lakehouse.models import FallbackBatch, Parent

__all__ = ["DatabaseStorage"]

CHARS_MAX = {"namespace": 200, "table": 500}
"""Those of the columns, which SQLite does not check."""


class DatabaseStorage:
    """The waiting rows of one parent; keys are their ids, which the database never gives twice."""

    def __init__(self, parent_id: int, *, of_flushes: bool = False) -> None:
        """With `of_flushes` only what our own flushes kept is seen, not what others stored by hand."""
        self._parent_id = parent_id
        self._of_flushes = of_flushes

    def transaction(self) -> AbstractContextManager[object]:
        return _locked(self._parent_id)

    def total_bytes(self) -> int:
        total: int = self._rows().aggregate(total=Sum(Length("payload"), default=0))["total"]
        return total

    def tables(self) -> list[TableName]:
        found = self._rows().values("namespace", "table").annotate(first=Min("pk")).order_by("first")
        return [TableName(row["namespace"], row["table"]) for row in found]

    def list(self, name: TableName, *, after: int, limit: int) -> list[int]:
        rows = self._rows().filter(namespace=name.namespace, table=name.table, pk__gt=after).order_by("pk")
        return list(rows.values_list("pk", flat=True)[:limit])

    def get(self, key: int) -> StoredRows | None:
        row = self._rows().filter(pk=key).first()
        if row is None:
            return None
        return StoredRows(
            name=TableName(row.namespace, row.table),
            rows=row.rows,
            payload=bytes(row.payload),
            batches=bytes(row.batches),
            flush_id=row.flush_id,
            attempts=row.attempts,
            next_attempt_ms=row.next_attempt_ms,
            last_error=row.last_error,
            created_ms=row.created_ms,
        )

    def put(self, stored: StoredRows) -> int:
        """Raises ValueError for a name that does not fit."""
        _check(stored.name)
        row = FallbackBatch.objects.create(
            parent_id=self._parent_id,
            namespace=stored.name.namespace,
            table=stored.name.table,
            rows=stored.rows,
            payload=stored.payload,
            batches=stored.batches,
            flush_id=stored.flush_id,
            created_ms=stored.created_ms,
        )
        return row.pk

    def delete(self, key: int) -> bool:
        return self._rows().filter(pk=key).delete()[0] == 1

    def note(self, key: int, *, seen: int, attempts: int, next_attempt_ms: int, error: str) -> bool:
        return bool(
            self._rows()
            .filter(pk=key, attempts=seen)
            .update(attempts=attempts, next_attempt_ms=next_attempt_ms, last_error=error)
        )

    def _rows(self) -> QuerySet[FallbackBatch]:
        rows = FallbackBatch.objects.filter(parent_id=self._parent_id)
        return rows.filter(flush__isnull=False) if self._of_flushes else rows


@contextmanager
def _locked(parent_id: int) -> Iterator[None]:
    """A transaction that has the parent's row to itself."""
    with transaction.atomic():
        if not Parent.objects.select_for_update().filter(pk=parent_id).values_list("pk"):
            raise Parent.DoesNotExist(f"there is no parent {parent_id}; its rows have nowhere to wait")
        yield


def _check(name: TableName) -> None:
    for field, text in name._asdict().items():
        chars_max = CHARS_MAX[field]
        if not 0 < len(text) <= chars_max:
            raise ValueError(f"{field} has {len(text)} characters, wanted 1 to {chars_max}: {text[:100]!r}")
