"""Tables as a flush asks for them before it writes: where they are, and what their metadata files say.

Of a lake in an object store the files of several are fetched at a time. Threads fetch files and nothing else: a pointer
is read in the thread of the flush, for each other one would open a connection of its own; and there what was fetched is
parsed, one table after the other, so that no more than one is in memory as objects.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.io import InputFile
from pyiceberg.table import Table
from pyiceberg.typedef import Identifier

from lakehouse.catalog import evolution, pointers, refusals, side_by_side
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.identifiers import namespace_key, table_key
from lakehouse.errors import TableRefused

AT_ONCE = 20
Found = Callable[[], Table | None]
"""None: there is no such table. Raises what its file raises."""


def each(catalog: DjangoCatalog, namespace: str, names: Iterable[str], room: int) -> Generator[tuple[str, Found]]:
    """These tables in their order, of which the files of so many are fetched ahead."""

    def fetch(located: tuple[Identifier, str | None]) -> InputFile | None:
        return catalog.fetch(located[1]) if located[1] is not None else None

    for (identifier, location), fetched in side_by_side.ahead(fetch, _located(namespace, names), room):
        yield identifier[-1], partial(_found, catalog, identifier, location, fetched)


def known_schemas(
    catalog: DjangoCatalog, namespace: str, names: Iterable[str], room: int = 1
) -> tuple[dict[str, pa.Schema], list[TableRefused]]:
    """The Arrow schema of each of these tables that exists, and which of them take no rows. Raises StoreUnavailable."""
    known: dict[str, pa.Schema] = {}
    refused: list[TableRefused] = []
    levels = Catalog.identifier_to_tuple(namespace)
    with closing(each(catalog, namespace, names, room)) as tables:
        for name, find in tables:
            try:
                with refusals.told(catalog, (*levels, name), partial(pointers.find, *table_key((*levels, name)))):
                    if (table := find()) is not None:
                        known[name] = evolution.known(table.metadata)
            except TableRefused as exc:
                refused.append(exc)
    return known, refused


def _located(namespace: str, names: Iterable[str]) -> Iterator[tuple[Identifier, str | None]]:
    """Where they are, asked for some at a time: what was asked long ago may have been moved by others."""
    levels, waiting = Catalog.identifier_to_tuple(namespace), iter(names)
    while some := list(islice(waiting, AT_ONCE)):
        found = pointers.find_all(namespace_key(levels), some)
        yield from (((*levels, name), found.get(name)) for name in some)


def _found(
    catalog: DjangoCatalog, identifier: Identifier, location: str | None, fetched: Callable[[], InputFile | None]
) -> Table | None:
    return None if location is None else catalog.at(identifier, location, fetched())
