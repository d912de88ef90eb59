"""Files that are read one after the other, of which an object store is asked for several at a time.

A small file is fetched whole, by two requests: PyArrow asks for its length first, whatever is known of it. A large one
is opened by whoever reads it, when its turn has come. Files of a folder are opened as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import TypeVar

from pyiceberg.io import FileIO, InputFile
from pyiceberg.manifest import ManifestFile

from lakehouse.catalog import side_by_side
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.object_files import BYTES_MAX

T = TypeVar("T")
AHEAD_BYTES = 8 * 2**20
"""Of what is there and was not read yet."""
WHOLE_BYTES = 4 * 2**20
"""A file is fetched whole up to here."""
UNKNOWN_BYTES = AHEAD_BYTES // side_by_side.THREADS
FLOOR_BYTES = 2**16
"""So much each file is taken for at least, for what a manifest says of its size may be wrong."""


def each(
    io: FileIO, files: Iterable[T], path: Callable[[T], str], size_bytes: Callable[[T], int] = lambda _: UNKNOWN_BYTES
) -> Iterator[tuple[T, Callable[[], InputFile]]]:
    """Each of these in its order, and how to get its file, which raises what the store raised."""

    def fetch(one: T) -> InputFile:
        if isinstance(io, DurableFileIO) and io.is_far(path(one)) and size_bytes(one) <= WHOLE_BYTES:
            return io.fetched(path(one), WHOLE_BYTES)
        return io.new_input(path(one))

    def room_of(one: T) -> int:
        return max(size_bytes(one) if size_bytes(one) <= WHOLE_BYTES else 0, FLOOR_BYTES)

    waiting = iter(files)
    for first in waiting:
        is_far = isinstance(io, DurableFileIO) and io.is_far(path(first))
        yield from side_by_side.ahead(fetch, chain([first], waiting), AHEAD_BYTES if is_far else 1, room_of)


def remember(io: FileIO, manifests: Sequence[ManifestFile]) -> None:
    """Fetch these for who reads them next, as far as they are remembered until then (see object_files)."""
    sizes = accumulate(one.manifest_length for one in manifests)
    some = [one for one, size in zip(manifests, sizes, strict=True) if size <= BYTES_MAX // 2]
    for _, fetched in each(io, some, lambda one: one.manifest_path, lambda one: one.manifest_length):
        fetched()
