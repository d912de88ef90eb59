"""Where the tables are that a query names, in the catalog, for whom may read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.conf import settings as site

from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.catalog_choice import elsewhere
from lakehouse.errors import ForbiddenQuery, InvalidQuery
from lakehouse.models import IcebergTable
from lakehouse.query.messages import Name, Place

SHOWN_MAX = 20


def places(names: Sequence[Name], *, allows: Callable[[str], bool]) -> list[Place]:
    """`allows` says whether a namespace may be read. Raises ForbiddenQuery before it looks, else InvalidQuery."""
    if site.EVODB.catalog:
        raise InvalidQuery(elsewhere(site.EVODB.catalog))
    return [_place(name, allows) for name in names]


def _place(name: Name, allows: Callable[[str], bool]) -> Place:
    """As SQL has it, case does not count, unless two tables differ in nothing else."""
    rows = IcebergTable.objects.filter(
        namespace__name__iexact=name.namespace.replace(".", SEPARATOR), name__iexact=name.table
    ).select_related("namespace")
    found = {(str(row.namespace), row.name): row.metadata_location for row in rows}
    wanted = (name.namespace, name.table)
    if wanted not in found and len(found) == 1:
        (wanted,) = found
    if not allows(wanted[0]):
        raise ForbiddenQuery(f"the access key is not meant for the namespace {name.namespace[:100]}")
    if wanted not in found:
        raise InvalidQuery(_unknown(name, several=len(found)))
    return Place(name.namespace, name.table, found[wanted])


def _unknown(name: Name, *, several: int) -> str:
    if several:
        return f"{several} tables are called {name.table!r} but for case; write it as it is, in double quotes"
    there = IcebergTable.objects.filter(namespace__name__iexact=name.namespace.replace(".", SEPARATOR)).order_by("name")
    known = list(there.values_list("name", flat=True)[: SHOWN_MAX + 1])
    listed = ", ".join(known[:SHOWN_MAX]) + (" and more" if len(known) > SHOWN_MAX else "")
    return f"there is no table {name.namespace}.{name.table}; in {name.namespace} there is {listed or 'none'}"[:2000]
