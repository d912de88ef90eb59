"""What namespaces and tables are called: a text of pyiceberg's, or its levels, as a key of our rows."""

from __future__ import annotations

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.typedef import Identifier

from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.storing import can_be_a_folder


def namespace_key(namespace: str | Identifier, error: type[Exception] = NoSuchNamespaceError) -> str:
    """The levels of a namespace as one text. A string is split at its dots."""
    levels = Catalog.identifier_to_tuple(namespace)
    if not levels or any(not can_be_a_folder(level) for level in levels):
        raise error(f"found namespace {namespace!r}, wanted one or more levels that can name a folder")
    return SEPARATOR.join(levels)


def table_key(identifier: str | Identifier) -> tuple[str, str]:
    """The namespace's key and the name of a table."""
    levels = Catalog.identifier_to_tuple(identifier)
    if len(levels) < 2:
        raise NoSuchTableError(f"found table {identifier!r}, wanted namespace.table")
    return namespace_key(levels[:-1]), levels[-1]


def check_table_name(name: str) -> None:
    """Raises ValueError."""
    if not can_be_a_folder(name):
        raise ValueError(f"found table name {name!r}, wanted one that can name a folder")


def shown(identifier: str | Identifier) -> str:
    """As a person writes it."""
    return ".".join(Catalog.identifier_to_tuple(identifier))
