"""Tables that share a folder. One registered twice would be two, and upkeep of the one deletes what the other needs."""

from __future__ import annotations

from collections.abc import Iterator

from pyiceberg.exceptions import NoSuchNamespaceError, TableAlreadyExistsError
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import Identifier

from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.models import IcebergTable, Namespace

SPELT = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "abfss"}


def place_of(location: str) -> str:
    """One spelling for each place, to compare by; without a slash at its end. `folders.plain` is who refuses some."""
    scheme, _, path = PyArrowFileIO.parse_location(location.rstrip("/"))
    return f"{SPELT.get(scheme, scheme)}:{path}"


def check(identifier: Identifier, metadata: TableMetadata, location: str) -> None:
    """A table may be registered. Raises NoSuchNamespaceError, or TableAlreadyExistsError when another lies there."""
    namespace, name = SEPARATOR.join(identifier[:-1]), identifier[-1]
    if not Namespace.objects.filter(name=namespace).exists():
        raise NoSuchNamespaceError(f"Namespace does not exist: {'.'.join(identifier[:-1])}")
    folders = set(_metadata_folders(metadata, location))
    others = IcebergTable.objects.exclude(namespace__name=namespace, name=name).select_related("namespace")
    for row in others.iterator(1000):
        places = (row.metadata_location, row.previous_metadata_location)
        if any(place and place_of(place).rpartition("/")[0] in folders for place in places):
            raise TableAlreadyExistsError(
                f"table {row} lies in {metadata.location} already, and two tables cannot share their files; "
                f"rename it, or drop it without its files and register this one again"
            )


def _metadata_folders(metadata: TableMetadata, location: str) -> Iterator[str]:
    """Where metadata files of this table are."""
    yield place_of(f"{metadata.location.rstrip('/')}/metadata")
    for path in (location, *(entry.metadata_file for entry in metadata.metadata_log)):
        yield place_of(path).rpartition("/")[0]
