"""Tables of somebody else's catalog: found, made, listed and seen. What that catalog raises becomes ours here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
import pydantic
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, TableAlreadyExistsError, ValidationError
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.typedef import Identifier

from lakehouse.catalog import evolution
from lakehouse.catalog.tables import TABLE_DEFAULTS
from lakehouse.errors import StoreUnavailable, TableRefused
from lakehouse.flush.outcome import SeenSnapshot, SeenTable

AWAY = {"botocore", "google", "pydantic_core", "pyiceberg", "requests", "sqlalchemy", "thrift", "urllib3"}
"""Whose errors mean that the catalog, or its store, did not do what it was asked; their bases are many."""


WORDS_MAX = 500


@contextmanager
def store_errors() -> Iterator[None]:
    """Raises StoreUnavailable for whatever a catalog, its client and its store say but yes."""
    try:
        yield
    except Exception as exc:
        if isinstance(exc, OSError) or type(exc).__module__.partition(".")[0] in AWAY:
            raise StoreUnavailable(f"the catalog or its store says {type(exc).__name__}: {exc}") from exc
        raise


def find(catalog: Catalog, namespace: str, name: str) -> Table | None:
    """Raises StoreUnavailable, or TableRefused for a table of a format we do not know."""
    with store_errors():
        try:
            return catalog.load_table(_identifier(namespace, name))
        except (NoSuchTableError, NoSuchNamespaceError):
            return None
        except (pydantic.ValidationError, ValidationError) as exc:
            said = f"the catalog says nothing of {namespace}.{name} that we understand: {str(exc)[:WORDS_MAX]}"
            raise TableRefused(said, table=name) from exc


def find_or_create(
    catalog: Catalog, namespace: str, name: str, columns: pa.Schema, parquet: Mapping[str, str]
) -> Table:
    """A new table is empty, so that making it twice, or for nothing, does no harm. Raises SchemaMismatch."""
    found = find(catalog, namespace, name)
    if found is not None:
        return found
    schema, spec = evolution.new_table(columns)
    identifier, properties = _identifier(namespace, name), {**TABLE_DEFAULTS, **parquet}
    with store_errors():
        for depth in range(1, len(identifier)):
            if not catalog.namespace_exists(identifier[:depth]):
                catalog.create_namespace_if_not_exists(identifier[:depth])
        try:
            return catalog.create_table(identifier, schema, partition_spec=spec, properties=properties)
        except TableAlreadyExistsError:
            return catalog.load_table(identifier)


def names(catalog: Catalog, namespace: str) -> list[str]:
    """The tables of a namespace; none when there is no such namespace."""
    with store_errors():
        try:
            return sorted(found[-1] for found in catalog.list_tables(Catalog.identifier_to_tuple(namespace)))
        except NoSuchNamespaceError:
            return []


def seen(table: Table, marker: str) -> SeenTable:
    """What this handle says of our stamps."""
    metadata = table.metadata
    main = metadata.refs.get(MAIN_BRANCH)
    snapshots = [
        SeenSnapshot(
            one.snapshot_id,
            one.parent_snapshot_id,
            one.sequence_number,
            one.summary.additional_properties.get(marker, "") if one.summary else "",
        )
        for one in metadata.snapshots
    ]
    return SeenTable(
        str(metadata.table_uuid), main.snapshot_id if main else None, snapshots, metadata.properties.get(marker, "")
    )


def _identifier(namespace: str, name: str) -> Identifier:
    return (*Catalog.identifier_to_tuple(namespace), name)
