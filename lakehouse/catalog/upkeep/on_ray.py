"""The rewriting of a pile as a job on a Ray cluster: Daft reads and sorts it in shares, and each new file is a task.

Reading and writing are ours on every machine (`ray_tasks`), so the files are those the local engine would write: the
table's schema of now, field ids, properties. Daft's own reader and writer know neither. It has the rows in between, and
only those of columns that come back from it as they went.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import daft
import ray
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table.metadata import TableMetadata

from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.upkeep import ray_tasks
from lakehouse.catalog.upkeep.ray_tasks import Job, Pile
from lakehouse.errors import NotKept

SHARE_BYTES = 32 * 2**20
"""Of files that one task reads: half a second's work, and some hundred MiB in memory."""


def rewrite(metadata: TableMetadata, files: Sequence[DataFile], io: FileIO, *, target_bytes: int) -> list[DataFile]:
    """As `rewriting.rewrite`, all at once. Raises NotKept, and what Daft and Ray raise; then nothing is left behind
    but what tasks had written that did not come to their end, which the sweep finds."""
    assert isinstance(io, DurableFileIO)
    job = Job(metadata, dict(io.properties), files[0], target_bytes)
    if lost := ray_tasks.not_kept(job.columns):
        raise NotKept(f"Daft does not keep the type of {', '.join(lost)}")
    _connect()
    tables = _sorted(job, files)
    rows = sum(file.record_count for file in files)
    size = sum(file.file_size_in_bytes for file in files)
    groups = _groups(tables, ray.get([_count.remote(table) for table in tables]), max(1, target_bytes * rows // size))
    new = [file for some in ray.get([_write.remote(job, group) for group in groups]) for file in some]
    io.written += [file.file_path for file in new]
    if (found := sum(file.record_count for file in new)) != rows:
        raise RuntimeError(f"{rows} rows were given to Daft and {found} came back")
    return new


def _connect() -> None:
    """To the cluster of RAY_ADDRESS, or to one on this machine, which is started when there is none."""
    with _own_signals():
        if not ray.is_initialized():
            ray.init(
                address=os.environ.get("RAY_ADDRESS"),
                logging_level=logging.WARNING,
                log_to_driver=False,
            )
        daft.set_runner_ray(noop_if_initialized=True)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, by which workers are asked to finish what they do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _sorted(job: Job, files: Sequence[DataFile]) -> list[Any]:
    """References to the rows in order, a table of Daft's each; where they are is Ray's."""
    frame = Pile(job, _shares(files)).read()
    keys = job.order
    return list((frame.sort([daft.col(key) for key in keys]) if keys else frame).iter_partitions())


def _shares(files: Sequence[DataFile]) -> list[list[str]]:
    """Paths to be read together."""
    shares: list[list[str]] = [[]]
    size = 0
    for file in files:
        if size >= SHARE_BYTES:
            shares.append([])
            size = 0
        shares[-1].append(file.file_path)
        size += file.file_size_in_bytes
    return shares


def _groups(tables: Sequence[Any], rows: Sequence[int], rows_wanted: int) -> list[list[Any]]:
    """Neighbours that make a file of the target size together."""
    groups: list[list[Any]] = [[]]
    sofar = 0
    for table, count in zip(tables, rows, strict=True):
        if sofar >= rows_wanted:
            groups.append([])
            sofar = 0
        groups[-1].append(table)
        sofar += count
    return groups


@ray.remote  # type: ignore[untyped-decorator]
def _count(table: Any) -> int:
    return len(table)


@ray.remote  # type: ignore[untyped-decorator]
def _write(job: Job, group: list[Any]) -> list[DataFile]:
    return ray_tasks.write(job, (ray.get(one) for one in group))
