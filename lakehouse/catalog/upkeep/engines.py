"""Who rewrites a pile of files: this process, or Daft on a Ray cluster. All that is decided and committed is ours.

A cluster is a help and never a condition: what it cannot do, or cannot do exactly, is done here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Protocol

from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table.metadata import TableMetadata

from lakehouse.catalog.upkeep import rewriting
from lakehouse.errors import NotKept
from lakehouse.rewrite_choice import RAY

log = logging.getLogger(__name__)

QUIET = {
    "DAFT_ANALYTICS_ENABLED": "0",
    "DAFT_PROGRESS_BAR": "0",
    "DO_NOT_TRACK": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Neither tells its makers what is done here."""


class Engine(Protocol):
    """As `rewriting.rewrite`: new files with the rows of these, sorted, of about the target size, named nowhere."""

    def __call__(
        self, metadata: TableMetadata, files: Sequence[DataFile], io: FileIO, *, target_bytes: int
    ) -> Iterable[DataFile]: ...


def of(name: str) -> Engine:
    """The engine of EVODB_REWRITE_ENGINE."""
    return _on_ray if name == RAY else rewriting.rewrite


def _on_ray(metadata: TableMetadata, files: Sequence[DataFile], io: FileIO, *, target_bytes: int) -> Iterable[DataFile]:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        from lakehouse.catalog.upkeep import on_ray

        return on_ray.rewrite(metadata, files, io, target_bytes=target_bytes)
    except NotKept as exc:
        log.info("%d files of %s are rewritten here: %s", len(files), metadata.location, exc)
    except (GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # a panic of Daft's is no Exception
        what = f"{type(exc).__name__}: {str(exc)[:500]}"
        log.warning("%d files of %s are rewritten here, Ray failed: %s", len(files), metadata.location, what)
    return rewriting.rewrite(metadata, files, io, target_bytes=target_bytes)
