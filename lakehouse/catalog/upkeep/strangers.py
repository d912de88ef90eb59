"""Who else may have files in a table's folders. Then nobody can tell an orphan from what is needed: none is deleted.

A table that was renamed and one made anew in its folder know of each other, both are asked what they name. Looked for
here are those who are not asked: a dropped table, which may be registered again, and one whose metadata lies elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyarrow.fs import FileSelector
from pyiceberg.table import Table

from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.neighbours import place_of
from lakehouse.catalog.upkeep import reachable
from lakehouse.catalog.upkeep.folders import data_and_metadata, homes
from lakehouse.catalog.upkeep.lease import Keeper
from lakehouse.catalog.upkeep.reading import STRANGE
from lakehouse.models import IcebergTable

METADATA = ".metadata.json"


def told(keeper: Keeper, table: Table, sharing: Sequence[Table]) -> str:
    """Why files here may be somebody else's; nothing when they are not."""
    folders = tuple(f"{place_of(place)}/" for place in data_and_metadata(table.metadata))
    asked = {one.metadata_location for one in (table, *sharing)}
    rows = IcebergTable.objects.exclude(pk=keeper.row.pk).select_related("namespace")
    for row in rows.iterator(1000):
        if row.metadata_location in asked:
            continue
        own = f"{place_of(row.metadata_location).rpartition('/metadata/')[0]}/"
        for place in _places(keeper.of(row).load()):
            path = f"{place_of(place)}/"
            if path.startswith(folders) and not path.startswith(own):
                return f"table {row} has files in {place}"
    for location in _unknown_metadata([table, *sharing]):
        return f"{location} is of a table that was dropped or never made; delete it when nobody will register it again"
    return ""


def _places(table: Table) -> Iterator[str]:
    """Where a table has files, as far as its metadata and the newest list of manifests tell."""
    yield from homes(table.metadata)
    yield from reachable.named_files(table.metadata, table.metadata_location)
    if (newest := table.metadata.current_snapshot()) is not None:
        yield from reachable.manifests(table.io, [newest.manifest_list])


def _unknown_metadata(tables: Sequence[Table]) -> Iterator[str]:
    """Metadata files in the folder of the first that are of none of these tables."""
    known = {one.metadata.table_uuid for one in tables}
    named = {
        path.rpartition("/")[2]
        for one in tables
        for path in (one.metadata_location, *(entry.metadata_file for entry in one.metadata.metadata_log))
    }
    io = tables[0].io
    assert isinstance(io, DurableFileIO)
    folder = data_and_metadata(tables[0].metadata)[1]
    scheme, netloc, top = io.parse_location(folder, io.properties)
    for info in io.fs_by_scheme(scheme, netloc).get_file_info(FileSelector(top, allow_not_found=True)):
        if info.base_name.endswith(METADATA) and info.base_name not in named:
            location = f"{folder}/{info.base_name}"
            if _uuid_of(tables[0], location) not in {None, *known}:
                yield location


def _uuid_of(table: Table, location: str) -> object:
    """None when it is no metadata, which nobody can register."""
    try:
        return table.catalog._read(location).table_uuid  # type: ignore[attr-defined]
    except STRANGE:
        return None
