"""Where the tables are that a query names, in the catalog, for whom may read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from django.conf import settings as site

from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.catalog_choice import elsewhere
from lakehouse.current.names import changes_of, current_of
from lakehouse.errors import ForbiddenQuery, InvalidQuery
from lakehouse.events.namespaces import TABLE, is_namespace, parent_of
from lakehouse.journal.child_tables import one_moment
from lakehouse.models import IcebergTable, Parent
from lakehouse.query import journal_tables
from lakehouse.query.messages import Name, Place

SHOWN_MAX = 20
NONE = "none; a table is there from the first flush of its rows on"


def places(names: Sequence[Name], *, allows: Callable[[str], bool]) -> list[Place]:
    """`allows` says whether a namespace may be read. Raises ForbiddenQuery before it looks, else InvalidQuery.

    Where the journal is asked too, all is of one moment: what it says of a table is true of the files of the query.
    """
    if any("\0" in name.namespace + name.table for name in names):
        raise InvalidQuery("there is a NUL in the name of a table or namespace, and no such one can be")
    is_of_journal = any(name.table.lower() in journal_tables.NAMES for name in names)
    moment: AbstractContextManager[None] = one_moment() if is_of_journal else nullcontext()
    with moment:
        return [_place(name, partial(_may_read, allows)) for name in names]


def _may_read(allows: Callable[[str], bool], namespace: str) -> bool:
    """Who may read the changes may read what has become of them."""
    origin = changes_of(namespace)
    return allows(namespace) or (origin is not None and allows(origin))


def _place(name: Name, allows: Callable[[str], bool]) -> Place:
    """As SQL has it, case does not count, unless two tables differ in nothing else."""
    if site.EVODB.catalog or name.table.startswith(journal_tables.OWN):
        if (told := _of_journal(name, allows)) is not None:
            return told
        if site.EVODB.catalog:
            raise InvalidQuery(elsewhere(site.EVODB.catalog))
    rows = IcebergTable.objects.filter(
        namespace__name__iexact=name.namespace.replace(".", SEPARATOR), name__iexact=name.table
    ).select_related("namespace")
    found = {(str(row.namespace), row.name): row.metadata_location for row in rows}
    wanted = (name.namespace, name.table)
    if wanted not in found and len(found) == 1:
        (wanted,) = found
    if not found and (told := _of_journal(name, allows)) is not None:
        return told
    if not allows(wanted[0]):
        raise ForbiddenQuery(f"the access key is not meant for the namespace {name.namespace[:100]}")
    if wanted in found:
        return Place(name.namespace, name.table, found[wanted])
    if not found and name.table.lower() == TABLE and _waits_for_events(name.namespace):
        return Place(name.namespace, name.table, "", journal_tables.NO_EVENTS)
    raise InvalidQuery(_unknown(name, several=len(found)))


def _waits_for_events(namespace: str) -> bool:
    return is_namespace(namespace) and Parent.objects.filter(name=parent_of(namespace)).exists()


def _of_journal(name: Name, allows: Callable[[str], bool]) -> Place | None:
    """What the journal tells of the namespace; None when this is no name for that."""
    if name.table.lower() not in journal_tables.NAMES:
        return None
    origin = changes_of(name.namespace.lower())
    asked = name.namespace if origin is None else origin
    there = set(Parent.objects.filter(namespace__iexact=asked).values_list("namespace", flat=True))
    namespace = asked if asked in there or len(there) != 1 else there.pop()
    namespace = namespace if origin is None else current_of(namespace)
    if not allows(namespace):
        raise ForbiddenQuery(f"the access key is not meant for the namespace {name.namespace[:100]}")
    return Place(name.namespace, name.table, "", journal_tables.rows(name.table.lower(), namespace))


def _unknown(name: Name, *, several: int) -> str:
    if several:
        return f"{several} tables are called {name.table!r} but for case; write it as it is, in double quotes"
    there = IcebergTable.objects.filter(namespace__name__iexact=name.namespace.replace(".", SEPARATOR)).order_by("name")
    known = list(there.values_list("name", flat=True)[: SHOWN_MAX + 1])
    listed = ", ".join(known[:SHOWN_MAX]) + (" and more" if len(known) > SHOWN_MAX else "")
    return f"there is no table {name.namespace}.{name.table}; in {name.namespace} there is {listed or NONE}"[:2000]
