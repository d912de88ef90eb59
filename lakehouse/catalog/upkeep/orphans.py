"""Files in a table's folders that no snapshot names: what flushes and rewrites left that died or lost.

A file is an orphan when it is older than a bound, older than every open flush, and its name is in nothing the table's
metadata leads to, nor that of a table whose metadata lies in the folder, nor in a snapshot forgotten and not deleted
yet. Names are compared without their folder: they are unique, and one place can be spelled in many ways. The lease
keeps rewrites out meanwhile: one that began before cannot commit any more. None is deleted where strangers may be.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from django.db.models import Min
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType
from pyiceberg.table import Table

from lakehouse.catalog import deleting, side_by_side
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.neighbours import place_of
from lakehouse.catalog.retention import is_collected
from lakehouse.catalog.upkeep import reachable, strangers
from lakehouse.catalog.upkeep.folders import data_and_metadata, is_ours
from lakehouse.catalog.upkeep.lease import Keeper
from lakehouse.catalog.upkeep.reading import told
from lakehouse.models import Flush, FlushState, IcebergTable

log = logging.getLogger(__name__)

AT_ONCE = 50_000
"""Files compared with the table's manifests in one pass; bounds the memory."""
NAMED = 20
"""So many are told by name."""
CLOCKS_MS = 60_000
"""So much may the clock of a store be behind that of who flushes."""
KEPT_NAMES = {"version-hint.text"}


class Orphan(NamedTuple):
    path: str
    size_bytes: int
    written_ms: int


@dataclass(slots=True)
class Swept:
    found: int = 0
    size_bytes: int = 0
    deleted: int = 0
    named: list[str] = field(default_factory=list)
    stranger: str = ""
    """Why none is deleted."""

    def __str__(self) -> str:
        why = f", for {self.stranger}" if self.stranger else ""
        return f"{self.found} orphans of {self.size_bytes} bytes, {self.deleted} deleted{why}"


def sweep(keeper: Keeper, *, before_ms: int, is_dry_run: bool) -> Swept:
    """Find what is older than that, and delete it unless this is a dry run.

    Raises DamagedTable, LeaseLost or StoreUnavailable.
    """
    done = Swept()
    keeper.renew()
    with told(f"the folders of {keeper.row} cannot be read or swept"):
        table = keeper.load()
        if not is_collected(table.metadata) or not is_ours(table, keeper.row, keeper.catalog):
            return done
        for some in _batches(_old_files(table, _others(keeper.row), before_ms)):
            _settle(keeper, some, done, is_dry_run=is_dry_run)
    return done


def _settle(keeper: Keeper, files: dict[str, Orphan], done: Swept, *, is_dry_run: bool) -> None:
    """Files by their name; those that are orphans are counted, and deleted unless they may be somebody else's."""
    # Asked after the files were listed: a flush that began since has none of them, whatever our clock says.
    began_ms = _oldest_open_flush_ms()
    names = {name for name, one in files.items() if began_ms is None or one.written_ms < began_ms - CLOCKS_MS}
    names -= KEPT_NAMES
    tables = [keeper.load(), *_sharing(keeper)]
    for table in tables:  # Read after the files were listed, so whatever was committed until then is seen.
        names = _unnamed(table, names)
    forgotten = list(keeper.row.forgotten.all())
    names -= {_name(path) for one in forgotten for path in one.statistics}
    names = _unreached(tables[0], names, [one.manifest_list for one in forgotten], missing_ok=True)
    orphans = [files[name] for name in sorted(names)]
    done.found += len(orphans)
    done.size_bytes += sum(one.size_bytes for one in orphans)
    done.named += [one.path for one in orphans[: NAMED - len(done.named)]]
    if orphans and not is_dry_run:
        done.stranger = done.stranger or strangers.told(keeper, tables[0], tables[1:])
        if not done.stranger:
            keeper.renew()
            done.deleted += deleting.remove(tables[0].io, [one.path for one in orphans])


def _unnamed(table: Table, names: set[str]) -> set[str]:
    left = names - {_name(path) for path in reachable.named_files(table.metadata, table.metadata_location)}
    return _unreached(table, left, reachable.manifest_lists(table.metadata), missing_ok=False)


def _unreached(table: Table, names: set[str], lists: Iterable[str], *, missing_ok: bool) -> set[str]:
    lists = list(lists)
    manifests = reachable.manifests(table.io, lists, missing_ok=missing_ok)
    left = names - {_name(path) for path in (*lists, *manifests)}
    for _, entries in reachable.each(table.io, manifests if left else ()):
        left.difference_update(_name(entry.path) for entry in entries() if entry.is_live)
        if not left:
            break
    return left


def _old_files(table: Table, others: set[str], before_ms: int) -> Iterator[Orphan]:
    """Files of the table's folders, without the folders of tables that lie in them."""
    io = table.io
    assert isinstance(io, DurableFileIO)
    for home in data_and_metadata(table.metadata):
        scheme, netloc, top = io.parse_location(home, io.properties)
        apart = {io.parse_location(one, io.properties)[2] for one in others}
        room = side_by_side.THREADS if io.is_far(home) else 1
        for info in _walk(io.fs_by_scheme(scheme, netloc), top, apart, room):
            if info.mtime_ns is not None and (written_ms := info.mtime_ns // 1_000_000) < before_ms:
                yield Orphan(home + info.path.removeprefix(top), info.size or 0, written_ms)


def _walk(fs: FileSystem, top: str, others: set[str], room: int) -> Iterator[FileInfo]:
    """Folder by folder, of which so many are in memory."""

    def listed(folder: str) -> list[FileInfo]:
        found: list[FileInfo] = fs.get_file_info(FileSelector(folder, allow_not_found=True))
        return found

    level = [top]
    while level:
        below = list[str]()
        for _, ask in side_by_side.ahead(listed, level, room):
            found = ask()
            folders = [info for info in found if info.type is FileType.Directory]
            if any(info.base_name == "metadata" for info in folders):
                continue  # A table of somebody lies here.
            below += [info.path for info in folders if info.path not in others]
            yield from (info for info in found if info.type is FileType.File)
        level = below


def _batches(files: Iterable[Orphan]) -> Iterator[dict[str, Orphan]]:
    some: dict[str, Orphan] = {}
    for one in files:
        if len(some) == AT_ONCE or _name(one.path) in some:
            yield some
            some = {}
        some[_name(one.path)] = one
    if some:
        yield some


def _others(row: IcebergTable) -> set[str]:
    """The folders of all other tables, as far as their metadata files tell."""
    rows = IcebergTable.objects.exclude(pk=row.pk).values_list("metadata_location", flat=True)
    return {location.rpartition("/metadata/")[0] for location in rows} - {""}


def _sharing(keeper: Keeper) -> list[Table]:
    """Tables whose metadata lies in the folder of this one: it was theirs before they were renamed."""
    home = place_of(keeper.load().metadata.location) + "/"
    rows = IcebergTable.objects.exclude(pk=keeper.row.pk).select_related("namespace")
    sharing = [row for row in rows.iterator(1000) if place_of(row.metadata_location).startswith(home)]
    return [keeper.of(row).load() for row in sharing]


def _oldest_open_flush_ms() -> int | None:
    started: int | None = Flush.objects.filter(state=FlushState.OPEN).aggregate(first=Min("started_ms"))["first"]
    return started


def _name(path: str) -> str:
    return path.rpartition("/")[2]
