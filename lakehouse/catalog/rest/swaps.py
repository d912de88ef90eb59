"""Metadata files written, and the pointers of their tables moved together or not at all.

Files are written outside the transaction, which is as short as that of a flush and meets it in the same rows. Where it
is sure that no pointer came to name a file, it is deleted. When the database does not say how the transaction ended, it
is asked; only when that fails, too, the client is told that nobody knows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import Error as DatabaseError
from django.db import transaction
from pyiceberg.exceptions import CommitStateUnknownException, NoSuchNamespaceError
from pyiceberg.table import Table

from lakehouse.catalog import deleting, pointers, retention
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.identifiers import table_key
from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.catalog.rest.problems import unavailable
from lakehouse.models import IcebergTable, Namespace
from rpc.failpoints import Failpoint, reach

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One table's share. Nothing to move when `new` is the table as it is."""

    identifier: tuple[str, ...]
    old: Table | None
    new: Table

    @property
    def is_change(self) -> bool:
        return self.old is None or self.new.metadata_location != self.old.metadata_location


class Moved(Exception):
    """Somebody else moved or made a pointer first. Nothing was moved."""


def publish(catalog: DjangoCatalog, prepared: Sequence[Prepared]) -> None:
    """Raises Moved; or Problem and CommitStateUnknownException when the database fails."""
    changes = [each for each in prepared if each.is_change]
    if not changes:
        return
    try:
        for each in changes:
            catalog._write(each.new)  # type: ignore[arg-type]  # a staged one
        reach(Failpoint.METADATA_WRITTEN)
    except BaseException:
        _throw_away(catalog, changes)
        raise
    try:
        _swap(catalog, changes)
    except (Moved, NoSuchNamespaceError):
        _throw_away(catalog, changes)
        raise
    except DatabaseError as exc:
        _find_out(catalog, changes, exc)
    reach(Failpoint.COMMITTED)


def _swap(catalog: DjangoCatalog, changes: Sequence[Prepared]) -> None:
    """Always in the same order, namespaces first, as a flush does. Raises Moved and moves nothing."""
    with transaction.atomic():
        new = sorted({SEPARATOR.join(each.identifier[:-1]) for each in changes if each.old is None})
        if new:
            list(Namespace.objects.select_for_update().filter(name__in=new).order_by("name"))
        for each in sorted(changes, key=lambda each: table_key(each.identifier)):
            namespace, name = table_key(each.identifier)
            if each.old is None:
                moved = insert(namespace, name, each.new.metadata_location)
            else:
                moved = pointers.move(
                    namespace,
                    name,
                    expected=each.old.metadata_location,
                    location=each.new.metadata_location,
                    forgotten=retention.forgotten(each.old.metadata, each.new.metadata),
                )
                catalog._delete_old_metadata(each.new.io, each.old.metadata, each.new.metadata)
            if not moved:
                raise Moved
        reach(Failpoint.SWAPPED)


def insert(namespace: str, name: str, location: str) -> bool:
    """Point a new table at its metadata file; False when the table exists. Raises NoSuchNamespaceError."""
    try:
        return pointers.insert(namespace, name, location)
    except Namespace.DoesNotExist:
        raise NoSuchNamespaceError(f"Namespace does not exist: {namespace.replace(SEPARATOR, '.')}") from None


def _find_out(catalog: DjangoCatalog, changes: Sequence[Prepared], error: DatabaseError) -> None:
    """The database failed, maybe after the commit. Returns when it was made; all of it was, or nothing.

    Raises Problem when it was not, CommitStateUnknownException when nobody can tell. The files stay in either case: a
    table that was renamed meanwhile could be the one that needs them.
    """
    each = changes[0]
    try:
        with transaction.atomic():
            _wait_for(each)
            table = catalog.find(each.identifier)
    except (DatabaseError, OSError) as exc:
        raise CommitStateUnknownException(f"the database failed while it committed: {error}") from exc
    log_of = [entry.metadata_file for entry in table.metadata.metadata_log] if table else []
    if table is not None and each.new.metadata_location in {table.metadata_location, *log_of}:
        return
    log.warning("a commit of a catalog client was not made, it may come again: %s", error)
    raise unavailable("the database is busy or away, nothing was committed") from error


def _wait_for(each: Prepared) -> None:
    """A transaction we lost sight of has locked these rows until it ends; after it they tell the truth."""
    namespace, name = table_key(each.identifier)
    if each.old is None:
        list(Namespace.objects.select_for_update().filter(name=namespace))
    else:
        rows = IcebergTable.objects.filter(namespace__name=namespace, name=name)
        list(rows.select_for_update(of=("self",)))


def _throw_away(catalog: DjangoCatalog, changes: Sequence[Prepared]) -> None:
    """Metadata files that no pointer names. What cannot be deleted stays an orphan."""
    locations = {each.new.metadata_location for each in changes}
    deleting.as_far_as_possible(catalog._load_file_io(), locations, "metadata")
