"""Files that nobody needs any more are deleted together: of S3 a thousand with a request, of others some at a time."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

from pyiceberg.io import FileIO

from lakehouse.catalog import objects, side_by_side
from lakehouse.catalog.files import DurableFileIO

log = logging.getLogger(__name__)


def remove(io: FileIO, paths: Iterable[str]) -> int:
    """Delete files, of which some may be gone already; returns how many were asked for. Raises OSError."""
    wanted = list(paths)
    for error in _left(io, wanted).values():
        raise error
    return len(wanted)


def as_far_as_possible(io: FileIO, paths: Iterable[str], kind: str) -> None:
    """What stays is told in the log."""
    for path, error in _left(io, list(paths)).items():
        log.warning("the %s file %s stays: %s", kind, path, error)


def _left(io: FileIO, paths: Sequence[str]) -> dict[str, OSError]:
    """What could not be deleted, and why."""
    buckets, others = defaultdict[str, dict[str, str]](dict), list[str]()
    for path in paths:
        if isinstance(io, DurableFileIO) and (found := io.object_of(path)) is not None:
            io.forget(path)
            buckets[found[0]][found[1]] = path
        else:
            others.append(path)
    left = _one_by_one(io, others)
    for bucket, keys in buckets.items():
        assert isinstance(io, DurableFileIO)
        left |= {keys[key]: error for key, error in objects.delete(bucket, [*keys], io.access).items()}
    return left


def _one_by_one(io: FileIO, paths: Sequence[str]) -> dict[str, OSError]:
    def one(path: str) -> OSError | None:
        try:
            io.delete(path)
        except FileNotFoundError:
            return None
        except OSError as exc:
            return exc
        return None

    is_near = isinstance(io, DurableFileIO) and not any(map(io.is_far, paths))
    found, failed = side_by_side.each(one, paths, 1 if is_near or len(paths) < 2 else side_by_side.THREADS)
    if failed is not None:
        raise failed
    return {path: error for path, error in zip(paths, found, strict=True) if error is not None}
