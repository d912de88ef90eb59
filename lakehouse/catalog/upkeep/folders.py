"""Where the files of a table lie, and whether they are ours to delete.

A table made elsewhere and registered here may have another owner, so only what lies in our warehouse, or where its
namespace says, is ever deleted; and of a table only what lies in its own folders.
"""

from __future__ import annotations

from pyiceberg.catalog import LOCATION, WAREHOUSE_LOCATION
from pyiceberg.table import Table, TableProperties
from pyiceberg.table.metadata import TableMetadata

from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.neighbours import place_of
from lakehouse.models import IcebergTable


def homes(metadata: TableMetadata) -> list[str]:
    """The folders in which a table's files are, as its metadata spells them."""
    asked = (TableProperties.WRITE_DATA_PATH, TableProperties.WRITE_METADATA_PATH)
    return [
        metadata.location.rstrip("/"),
        *(metadata.properties[n].rstrip("/") for n in asked if n in metadata.properties),
    ]


def data_and_metadata(metadata: TableMetadata) -> list[str]:
    """The folders that hold nothing but a table's files; beside them another namespace may have its tables."""
    home = metadata.location.rstrip("/")
    asked = {"data": TableProperties.WRITE_DATA_PATH, "metadata": TableProperties.WRITE_METADATA_PATH}
    return [metadata.properties.get(name, f"{home}/{folder}").rstrip("/") for folder, name in asked.items()]


def is_inside(path: str, table: Table) -> bool:
    """Whether a file lies in the table's own folders."""
    return any(_is_below(path, home) for home in homes(table.metadata))


def is_ours(table: Table, row: IcebergTable, catalog: DjangoCatalog) -> bool:
    """Whether a table lies where this catalog would have put it."""
    own = [catalog.properties[WAREHOUSE_LOCATION], row.namespace.properties.get(LOCATION, "")]
    return all(any(_is_below(home, one) for one in own if one) for home in homes(table.metadata))


def _is_below(path: str, folder: str) -> bool:
    return place_of(path).startswith(place_of(folder) + "/")
