"""What keeps a query inside, whatever its SQL managed to say: the kernel around its process, and DuckDB's own locks.

The process has one query and dies with it. The kernel bounds its memory and ends it some time after the parent should
have; DuckDB opens no file but those of the tables that were granted, and lets nobody change that.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterable
from pathlib import Path

import duckdb

from lakehouse.query.messages import Limits
from lakehouse.query.quoting import quoted

MIB = 1024 * 1024
LATE_S = 5
NICE = 5
"""Children are served before queries."""
FIRST_TO_DIE = 800


def around_process(limits: Limits) -> None:
    """For this process, once."""
    signal.alarm(limits.timeout_ms // 1000 + LATE_S)
    os.nice(NICE)
    with contextlib.suppress(OSError):  # Linux: if memory runs out, it is this one that ends.
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_DIE))
    _bound(resource.RLIMIT_DATA, 2 * limits.memory_bytes_max + 256 * MIB)
    _bound(resource.RLIMIT_FSIZE, limits.temp_bytes_max)
    _bound(resource.RLIMIT_CORE, 0)


def around_memory(connection: duckdb.DuckDBPyConnection, limits: Limits) -> None:
    spill = quoted(limits.temp_folder) if limits.temp_bytes_max else "''"
    for statement in (
        f"SET memory_limit = '{limits.memory_bytes_max}B'",
        f"SET temp_directory = {spill}",
        f"SET max_temp_directory_size = '{limits.temp_bytes_max}B'",
        f"SET threads = {limits.threads}",
    ):
        connection.execute(statement)


def around_files(connection: duckdb.DuckDBPyConnection, folders: Iterable[str]) -> None:
    """From here on, for good."""
    allowed = ", ".join(quoted(folder) for folder in folders)
    for statement in (
        "SET python_enable_replacements = false",
        f"SET allowed_directories = [{allowed}]",
        "SET allowed_paths = []",
        "SET enable_external_access = false",
        "SET lock_configuration = true",
    ):
        connection.execute(statement)


def _bound(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (allowed, allowed))
