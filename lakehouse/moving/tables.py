"""The files of one table, brought to another place: what holds rows is copied, what names files is written anew.

    metadata ─▶ lists of manifests ─▶ manifests ─▶ data          read in this order, written the other way round

Snapshots, their ids and their times stay, so that the past is as far away as before. What no snapshot reaches stays
behind. Nothing that exists is overwritten but copies of the same file, so this may die and be repeated.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.catalog import side_by_side
from lakehouse.catalog.files import FOLDER, DurableFileIO
from lakehouse.errors import DamagedTable
from lakehouse.moving import avro_container, naming
from lakehouse.moving.avro_container import Container
from lakehouse.moving.relocation import Relocation

BUFFER_BYTES = 4 * 2**20
AT_ONCE = 8
"""Files are copied; each takes its buffer and, in a bucket, the part that is on its way."""
GZ = ".gz.metadata.json"


@dataclass(slots=True)
class Moved:
    """`location` is that of the new metadata file; data files and their bytes that were not there yet."""

    location: str
    files: int = 0
    size_bytes: int = 0


class TableMove:
    """Of one table, once."""

    def __init__(self, io: DurableFileIO, relocation: Relocation) -> None:
        self._io, self._relocation = io, relocation
        self._seen = set[str]()
        self._lengths = dict[str, int]()

    def run(self, location: str) -> Moved:
        """`location` is that of its metadata file. Raises Immovable, DamagedTable or OSError."""
        document = self._document(location)
        lists = {path: self._container(path) for path in naming.manifest_lists(document, self._relocation)}
        moved = Moved(self._relocation.rewritten(location))
        for path in dict.fromkeys(one["manifest_path"] for each in lists.values() for one in each.records):
            naming.check(path, self._relocation)
            self._manifest(path, moved)
        self._copy_all(naming.statistics(document), moved)
        for path, found in lists.items():
            entries = [naming.list_entry(one, self._relocation, self._lengths) for one in found.records]
            self._write(path, avro_container.write(Container(found.meta, entries)))
        text = json.dumps(naming.metadata(document, self._relocation)).encode()
        self._write(location, gzip.compress(text) if location.endswith(GZ) else text)
        self._io.settle()
        return moved

    def copy_data(self, location: str) -> Moved:
        """Only what holds rows, for the rest is written anew each time; what goes away meanwhile is not missed."""
        document = self._document(location)
        moved = Moved("")
        for path in naming.manifest_lists(document, self._relocation):
            for one in self._container(path).records:
                records = self._container(one["manifest_path"]).records
                self._copy_all(_plain_files(records), moved)
        self._io.settle()
        return moved

    def _manifest(self, path: str, moved: Moved) -> None:
        found = self._container(path)
        self._copy_all(_plain_files(found.records), moved)
        entries = []
        for record in found.records:
            file = naming.file_entry(record["data_file"], self._relocation)
            if naming.names_files(file) and record["status"] != naming.DELETED:
                file["file_size_in_bytes"] = self._deletes(record["data_file"]["file_path"])
            entries.append(record | {"data_file": file})
        self._lengths[path] = self._write(path, avro_container.write(Container(found.meta, entries)))

    def _deletes(self, path: str) -> int:
        rows = pq.read_table(pa.BufferReader(self._content(path)), use_threads=False)
        written = pa.BufferOutputStream()
        pq.write_table(naming.deletes(rows, self._relocation), written)
        return self._write(path, written.getvalue().to_pybytes())

    def _copy_all(self, paths: Iterable[str], moved: Moved) -> None:
        if not self._relocation.is_copying:
            return
        fresh = [path for path in dict.fromkeys(paths) if path not in self._seen and self._relocation.moves(path)]
        self._seen.update(fresh)
        copied, failed = side_by_side.each(self._copy, fresh, AT_ONCE)
        if failed is not None:
            raise failed
        sizes = [size for size in copied if size is not None]
        moved.files, moved.size_bytes = moved.files + len(sizes), moved.size_bytes + sum(sizes)

    def _copy(self, path: str) -> int | None:
        """Bytes; None when it is there already, which a store knows and a folder after a power cut does not."""
        source, target = self._relocation.now(path), self._relocation.new(path)
        found = self._io.new_input(source)
        if self._io.parse_location(target)[0] != FOLDER and self._length(target) == len(found):
            return None
        with found.open() as stream, self._io.new_output(target).create(overwrite=True) as out:
            shutil.copyfileobj(stream, out, BUFFER_BYTES)
        return len(found)

    def _length(self, location: str) -> int | None:
        try:
            return len(self._io.new_input(location))
        except FileNotFoundError:
            return None

    def _write(self, path: str, content: bytes) -> int:
        with self._io.new_output(self._relocation.rewritten(path)).create(overwrite=True) as out:
            out.write(content)
        return len(content)

    def _container(self, path: str) -> Container:
        try:
            return avro_container.read(self._content(path))
        except DamagedTable as exc:
            raise DamagedTable(f"{path}: {exc}") from exc

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


def _plain_files(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """That name no others, and that a snapshot has."""
    for record in records:
        if record["status"] != naming.DELETED and not naming.names_files(record["data_file"]):
            yield record["data_file"]["file_path"]
