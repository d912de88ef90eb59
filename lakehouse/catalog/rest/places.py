"""Which locations a caller may name: inside the warehouse, and nothing of a namespace that his key is not for.

Every path that gets into a table's metadata comes past here, so whatever the metadata of a table names may be read and
deleted for those who may have that table. Tables that exist lie where they lie: their own folder is always theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pyiceberg.catalog import LOCATION, WAREHOUSE_LOCATION
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    SetLocationUpdate,
    SetPartitionStatisticsUpdate,
    SetPropertiesUpdate,
    SetStatisticsUpdate,
    TableUpdate,
)

from lakehouse.catalog.folders import is_within, join, overlap, plain, shown
from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.catalog.rest.calls import Call
from lakehouse.catalog.rest.problems import bad_request, forbidden
from lakehouse.models import IcebergTable, Namespace
from lakehouse.parent.grants import ANY

PATHS = ("write.metadata.path", "write.data.path", "write.object-storage.path", "write.folder-storage.path")
"""Properties that say where the files of a table go."""


class Places:
    """For one request."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.warehouse = plain(call.catalog.properties[WAREHOUSE_LOCATION])
        self._is_bound = call.grant.namespaces != ANY
        self._found: dict[str, set[str]] = {}

    def home(self, namespace: tuple[str, ...]) -> str:
        """The folder of a namespace."""
        row = Namespace.objects.filter(name=SEPARATOR.join(namespace)).first()
        given = row.properties.get(LOCATION) if row else None
        return str(given).rstrip("/") if given else join(self.warehouse, namespace)

    def check(self, location: str, *, namespace: tuple[str, ...], own: str = "", home: str = "") -> str:
        """The plain form of a location where files for this namespace may lie. Raises Problem.

        `own` is where the table lies already, `home` the folder of a namespace that is not made yet.
        """
        try:
            path = plain(location)
        except ValueError as exc:
            raise bad_request(str(exc)) from None
        if not is_within(path, self.warehouse) or path == self.warehouse:
            raise bad_request(f"location {shown(location)} is not inside the warehouse {self.warehouse}")
        if self._is_bound:
            is_own = bool(own) and is_within(path, plain(own))
            allowed = plain(own if is_own else home or self.home(namespace))
            if not is_within(path, allowed):
                raise forbidden(f"location {shown(location)} is not in the folder of {'.'.join(namespace)}")
            if any(overlap(path, stranger) for stranger in self._strangers(allowed)):
                raise forbidden(f"location {shown(location)} belongs to a namespace the access key is not for")
        return path

    def check_all(self, locations: Iterable[str], *, namespace: tuple[str, ...], own: str = "") -> None:
        for location in locations:
            self.check(location, namespace=namespace, own=own)

    def _strangers(self, around: str) -> set[str]:
        """Folders below this one of namespaces and tables that the key is not for."""
        if around not in self._found:
            rows = Namespace.objects.values_list("name", "properties")
            hidden = {key: given for key, given in rows if not self._call.sees(tuple(key.split(SEPARATOR)))}
            folders = {
                plain(str(given.get(LOCATION) or join(self.warehouse, key.split(SEPARATOR))))
                for key, given in hidden.items()
            }
            tables = IcebergTable.objects.filter(metadata_location__startswith=f"{around}/")
            for key, location in tables.values_list("namespace__name", "metadata_location"):
                if key in hidden:
                    folders.add(location.rpartition("/metadata/")[0] or location)
            self._found[around] = {folder for folder in folders if folder != around and is_within(folder, around)}
        return self._found[around]


def paths_of_updates(updates: Iterable[TableUpdate]) -> Iterator[str]:
    """Every path that a commit would bring into the metadata."""
    for update in updates:
        if isinstance(update, SetLocationUpdate):
            yield update.location
        elif isinstance(update, SetPropertiesUpdate):
            yield from paths_of_properties(update.updates)
        elif isinstance(update, AddSnapshotUpdate):
            yield update.snapshot.manifest_list
        elif isinstance(update, SetStatisticsUpdate):
            yield update.statistics.statistics_path
        elif isinstance(update, SetPartitionStatisticsUpdate):
            yield update.partition_statistics.statistics_path


def paths_of_properties(properties: Mapping[str, str]) -> Iterator[str]:
    return (properties[name] for name in PATHS if name in properties)


def paths_of_metadata(metadata: TableMetadata) -> Iterator[str]:
    """Every path the metadata of a table names."""
    yield metadata.location
    yield from paths_of_properties(metadata.properties)
    yield from (snapshot.manifest_list for snapshot in metadata.snapshots)
    yield from (entry.metadata_file for entry in metadata.metadata_log)
    yield from (file.statistics_path for file in metadata.statistics)
    yield from (file.statistics_path for file in metadata.partition_statistics)
