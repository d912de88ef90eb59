"""Files that hold rows and name no others, brought to the new place as they are. Each is copied once for its table."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lakehouse.catalog import side_by_side
from lakehouse.catalog.files import FOLDER, DurableFileIO
from lakehouse.moving.relocation import Relocation

BUFFER_BYTES = 4 * 2**20
HALF = ".half"
AT_ONCE = 8
"""Files are copied; each takes its buffer and, in a bucket, the part that is on its way."""


@dataclass(slots=True)
class Copied:
    """Files and bytes that were not there yet, and what lies in another place and stays there."""

    files: int = 0
    size_bytes: int = 0
    staying: int = 0
    one_that_stays: str = ""


class Copies:
    """Of one table, once."""

    def __init__(self, io: DurableFileIO, relocation: Relocation, *, missing_ok: bool = False) -> None:
        """`missing_ok`: the house is open, and its upkeep deletes."""
        self._io, self._relocation, self._missing_ok = io, relocation, missing_ok
        self._seen = set[str]()
        self.done = Copied()

    def bring(self, paths: Iterable[str]) -> None:
        """Raises OSError."""
        fresh = [path for path in dict.fromkeys(paths) if path not in self._seen]
        self._seen.update(fresh)
        going = [path for path in fresh if self._relocation.moves(path)]
        if len(going) < len(fresh):
            self.done.staying += len(fresh) - len(going)
            self.done.one_that_stays = next(path for path in fresh if not self._relocation.moves(path))
        if self._relocation.is_copying:
            self._copy_all(going)

    def _copy_all(self, paths: list[str]) -> None:
        copied, failed = side_by_side.each(self._copy, paths, AT_ONCE)
        if failed is not None:
            raise failed
        sizes = [size for size in copied if size is not None]
        self.done.files, self.done.size_bytes = self.done.files + len(sizes), self.done.size_bytes + sum(sizes)

    def _copy(self, path: str) -> int | None:
        """Bytes; None when it is there already: in a bucket and in a folder nothing has its name before it is whole."""
        source, target = self._relocation.now(path), self._relocation.new(path)
        found = self._io.new_input(source)
        try:
            size_bytes = len(found)
            if self._length(target) == size_bytes:
                self._io.written.append(target)  # by whom ever: it is on the disk when this table settles
                return None
            with found.open() as stream:
                self._write(stream, target, size_bytes)
        except FileNotFoundError:
            if self._missing_ok:
                return None
            raise
        return size_bytes

    def _write(self, stream: Any, target: str, size_bytes: int) -> None:
        scheme, _, path = self._io.parse_location(target)
        if scheme == FOLDER:
            _write_in_folder(stream, Path(path), size_bytes)
            self._io.written.append(target)
            return
        with self._io.new_output(target).create(overwrite=True) as out:
            _pour(stream, out, size_bytes)

    def _length(self, location: str) -> int | None:
        try:
            return len(self._io.new_input(location))
        except FileNotFoundError:
            return None


def _write_in_folder(stream: Any, path: Path, size_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}{HALF}")
    try:
        with half.open("wb") as out:
            _pour(stream, out, size_bytes)
            out.flush()
            os.fsync(out.fileno())
    except OSError:
        half.unlink(missing_ok=True)
        raise
    half.replace(path)


def _pour(stream: Any, out: Any, size_bytes: int) -> None:
    left = size_bytes
    while content := stream.read(BUFFER_BYTES):
        out.write(content)
        left -= len(content)
    if left:
        raise OSError(f"found {size_bytes - left} bytes, wanted {size_bytes}")
