"""The files of one table, brought to another place: what holds rows is copied, what names files is written anew.

    metadata ─▶ lists of manifests ─▶ manifests ─▶ data          read in this order, and the metadata is written last

Snapshots, their ids and their times stay, so that the past is as far away as before. What no snapshot reaches stays
behind. Nothing that exists is overwritten but copies of the same file, so this may die and be repeated.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

from pyiceberg.manifest import ManifestEntryStatus

from lakehouse.catalog import side_by_side
from lakehouse.catalog.files import DurableFileIO
from lakehouse.errors import DamagedTable
from lakehouse.moving import avro_container, deletes, naming
from lakehouse.moving.avro_container import Container
from lakehouse.moving.copying import AT_ONCE, Copied, Copies
from lakehouse.moving.deletes import Deletes
from lakehouse.moving.relocation import Relocation

PORTION = 64
"""Manifests that are read before what they name is copied: enough to be at work all the time, and few in memory."""
GZ = ".gz.metadata.json"
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Moved:
    """`location` is that of the new metadata file."""

    location: str
    data: Copied


class TableMove:
    """Of one table, once."""

    def __init__(self, io: DurableFileIO, relocation: Relocation) -> None:
        self._io, self._relocation = io, relocation
        self._lengths = dict[str, int]()
        self._deletes = dict[str, Deletes]()

    def run(self, location: str) -> Moved:
        """`location` is that of its metadata file. Raises Immovable, DamagedTable or OSError."""
        document, copies = self._document(location), Copies(self._io, self._relocation)
        lists = naming.manifest_lists(document, self._relocation)
        for manifests in _portions(self._manifests_of(lists)):
            copies.bring(chain.from_iterable(_each(self._manifest, manifests)))
        copies.bring(naming.statistics(document))
        for some in _portions(lists):
            _each(self._list, some)
        text = json.dumps(naming.metadata(document, self._relocation)).encode()
        self._write(location, gzip.compress(text) if location.endswith(GZ) else text)
        self._io.settle()
        return Moved(self._relocation.rewritten(location), copies.done)

    def copy_data(self, location: str) -> Moved:
        """Only what holds rows, for the rest is written anew each time; what goes away meanwhile is not missed."""
        copies = Copies(self._io, self._relocation, missing_ok=True)
        lists = naming.manifest_lists(self._document(location), self._relocation)
        for manifests in _portions(self._manifests_of(lists, missing_ok=True)):
            copies.bring(chain.from_iterable(_each(self._plain_files, manifests)))
        self._io.settle()
        return Moved("", copies.done)

    def _manifests_of(self, lists: Iterable[str], *, missing_ok: bool = False) -> Iterator[str]:
        """Each once. Raises Immovable."""

        def named_in(path: str) -> list[str]:
            try:
                return [one["manifest_path"] for one in self._container(path).records]
            except FileNotFoundError:
                if missing_ok:
                    return []
                raise

        seen = set[str]()
        for some in _portions(lists):
            for path in chain.from_iterable(_each(named_in, some)):
                if path not in seen:
                    seen.add(path)
                    naming.check(path, self._relocation)
                    yield path

    def _plain_files(self, path: str) -> list[str]:
        """That a manifest names; none of one that was deleted meanwhile."""
        try:
            return [one["data_file"]["file_path"] for one in self._container(path).records if _is_plain(one)]
        except FileNotFoundError:
            return []

    def _manifest(self, path: str) -> list[str]:
        """Written anew; gives the files that are to be copied."""
        found, plain = self._container(path), list[str]()

        def entries() -> Iterator[dict[str, Any]]:
            for record in found.records:
                if _is_plain(record):
                    plain.append(record["data_file"]["file_path"])
                yield record | {"data_file": self._file(record)}

        self._lengths[path] = self._write(path, avro_container.write(Container(found.meta, entries())))
        return plain

    def _file(self, record: dict[str, Any]) -> dict[str, Any]:
        file = record["data_file"]
        entry = naming.file_entry(file, self._relocation)
        if record["status"] == ManifestEntryStatus.DELETED or not naming.names_files(file):
            return entry
        naming.check_deletes(file, self._relocation)
        return self._renamed(file["file_path"]).entry(entry)

    def _renamed(self, path: str) -> Deletes:
        """A file of deletes, written anew once, however many manifests have it."""
        if path not in self._deletes:
            content, self._deletes[path] = deletes.renamed(self._content(path), path, self._relocation.new)
            self._write(path, content)
        return self._deletes[path]

    def _list(self, path: str) -> None:
        found = self._container(path)
        entries = (naming.list_entry(one, self._relocation, self._lengths) for one in found.records)
        self._write(path, avro_container.write(Container(found.meta, entries)))

    def _write(self, path: str, content: bytes) -> int:
        with self._io.new_output(self._relocation.rewritten(path)).create(overwrite=True) as out:
            out.write(content)
        return len(content)

    def _container(self, path: str) -> Container:
        return avro_container.read(self._content(path), path)

    def _document(self, location: str) -> dict[str, Any]:
        content = self._content(location)
        try:
            found: dict[str, Any] = json.loads(gzip.decompress(content) if location.endswith(GZ) else content)
        except (ValueError, OSError, EOFError) as exc:
            raise DamagedTable(f"{location} is no metadata file: {exc}") from exc
        return found

    def _content(self, path: str) -> bytes:
        with self._io.new_input(self._relocation.now(path)).open() as stream:
            content: bytes = stream.read()
        return content


def _is_plain(record: dict[str, Any]) -> bool:
    """A file that names no others, and that a snapshot has."""
    return record["status"] != ManifestEntryStatus.DELETED and not naming.names_files(record["data_file"])


def _portions(items: Iterable[str]) -> Iterator[list[str]]:
    left = iter(items)
    while some := list(islice(left, PORTION)):
        yield some


def _each(work: Callable[[str], R], items: list[str]) -> list[R]:
    done, failed = side_by_side.each(work, items, AT_ONCE)
    if failed is not None:
        raise failed
    return done
