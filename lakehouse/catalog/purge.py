"""The files of a dropped table, deleted when that was asked for.

What a table's manifests name was written by clients. So only what lies in the table's own folder is deleted, and
nothing at all while another table has its metadata there. What cannot be read or deleted stays an orphan; the table is
gone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pyiceberg.io import FileIO
from pyiceberg.manifest import read_manifest_list
from pyiceberg.table.metadata import TableMetadata

from lakehouse.catalog import deleting, fetching
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.folders import is_within, plain
from lakehouse.catalog.upkeep import reachable
from lakehouse.models import IcebergTable

log = logging.getLogger(__name__)

AT_ONCE = 1000
"""Paths held in memory at a time."""


def purge(catalog: DjangoCatalog, metadata_location: str) -> int:
    """Delete the files behind the metadata file of a table nobody points to. Returns how many there were.

    Harmless when it runs twice: the metadata file goes last.
    """
    io = catalog._load_file_io()
    try:
        metadata = catalog._read(metadata_location)
    except FileNotFoundError:
        return 0
    folder = plain(metadata.location)
    if IcebergTable.objects.filter(metadata_location__startswith=f"{folder}/").exists():
        log.warning("the files in %s stay: another table has its metadata there", folder)
        return 0
    count, waiting = 0, set[str]()
    for path in _files(metadata, io):
        if not _is_inside(path, folder):
            log.warning("%s is not deleted with its table, it lies outside of %s", path, folder)
            continue
        waiting.add(path)
        if len(waiting) >= AT_ONCE:
            count += _delete(io, waiting)
    count += _delete(io, waiting)
    return count + _delete(io, {metadata_location} if _is_inside(metadata_location, folder) else set())


def _files(metadata: TableMetadata, io: FileIO) -> Iterator[str]:
    """Data first: whatever names a file is there until the file is gone."""
    lists, manifests = set[str](), set[str]()
    for snapshot, fetched in fetching.each(io, metadata.snapshots, lambda one: one.manifest_list):
        lists.add(snapshot.manifest_list)
        try:
            fresh = {one.manifest_path for one in read_manifest_list(fetched())} - manifests
            manifests |= fresh
            for _, entries in reachable.each(io, sorted(fresh)):
                yield from (entry.path for entry in entries())
        except (OSError, ValueError) as exc:
            log.warning("files of snapshot %s stay, its manifests cannot be read: %s", snapshot.snapshot_id, exc)
    yield from manifests
    yield from lists
    yield from (file.statistics_path for file in metadata.statistics)
    yield from (file.statistics_path for file in metadata.partition_statistics)
    yield from (entry.metadata_file for entry in metadata.metadata_log)


def _is_inside(path: str, folder: str) -> bool:
    try:
        return is_within(plain(path), folder)
    except ValueError:
        return False


def _delete(io: FileIO, paths: set[str]) -> int:
    count = len(paths)
    deleting.as_far_as_possible(io, paths, "purged")
    paths.clear()
    return count
