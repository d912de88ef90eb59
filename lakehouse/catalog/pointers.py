"""The pointers as rows: which metadata file is the newest of a table, and the one compare-and-swap that moves it.

A namespace is named by its levels joined with U+001F. Nothing here reads or writes a file, and nothing here knows what
a metadata file says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID, uuid4

from django.db import IntegrityError, transaction
from django.db.models import F

from lakehouse.clock import now_ms
from lakehouse.models import ForgottenSnapshot, IcebergTable, Namespace, TableToMake

SEPARATOR = "\x1f"


class Forgotten(NamedTuple):
    """A snapshot the new metadata names no more, and the files it was known by."""

    snapshot_id: int
    manifest_list: str
    statistics: tuple[str, ...]


def find(namespace: str, table: str) -> str | None:
    """Where the newest metadata file of this table is."""
    rows = IcebergTable.objects.filter(namespace__name=namespace, name=table)
    return rows.values_list("metadata_location", flat=True).first()


def find_all(namespace: str, tables: Iterable[str]) -> dict[str, str]:
    """The same of several that are there."""
    rows = IcebergTable.objects.filter(namespace__name=namespace, name__in=list(tables))
    return dict(rows.values_list("name", "metadata_location"))


def lock_namespaces(namespaces: Iterable[str]) -> None:
    """Make these namespaces exist and keep them from being dropped until the transaction ends."""
    for namespace in sorted(namespaces):
        Namespace.objects.get_or_create(name=namespace)
        Namespace.objects.select_for_update().get(name=namespace)


def insert(namespace: str, table: str, location: str) -> bool:
    """Point a new table at its metadata file; False when the table exists. Raises Namespace.DoesNotExist."""
    try:
        with transaction.atomic():
            # Locked, or dropping the namespace meanwhile would fail the whole transaction at its end.
            row = Namespace.objects.select_for_update().get(name=namespace)
            made = IcebergTable.objects.create(namespace=row, name=table, metadata_location=location)
            TableToMake.objects.filter(namespace=namespace, name=table).update(table=made)
    except IntegrityError:
        return False
    return True


def uuid_to_make(namespace: str, table: str) -> UUID:
    """What a table of ours is made as, by all who make it; another one once that table was dropped or renamed."""
    row, _ = TableToMake.objects.select_related("table__namespace").get_or_create(namespace=namespace, name=table)
    if row.table is not None and (row.table.namespace.name, row.table.name) != (namespace, table):
        TableToMake.objects.filter(pk=row.pk, uuid=row.uuid).update(uuid=uuid4(), table=None)
        row.refresh_from_db()
    return row.uuid


def move(namespace: str, table: str, *, expected: str, location: str, forgotten: Sequence[Forgotten] = ()) -> bool:
    """Move the pointer if it is still where expected; False when somebody else moved or dropped it.

    The row is looked up first: PostgreSQL checks the WHERE of an UPDATE that waited again, but not a subquery in it.
    """
    found = IcebergTable.objects.filter(namespace__name=namespace, name=table).values_list("pk", flat=True).first()
    return found is not None and move_row(found, expected=expected, location=location, forgotten=forgotten)


def move_row(pk: int, *, expected: str, location: str, forgotten: Sequence[Forgotten] = ()) -> bool:
    """The same for a row, whatever its table is called by now.

    What the table forgets by it is remembered in the same transaction, until its files are deleted.
    """
    with transaction.atomic(savepoint=False):
        moved = IcebergTable.objects.filter(pk=pk, metadata_location=expected).update(
            metadata_location=location, previous_metadata_location=expected, version=F("version") + 1
        )
        if moved and forgotten:
            since_ms = now_ms()  # Not when a client says it made its commit.
            ForgottenSnapshot.objects.bulk_create(
                ForgottenSnapshot(table_id=pk, forgotten_ms=since_ms, **one._asdict()) for one in forgotten
            )
    return moved == 1
