"""The settings of SQL over the lake. Every one is a bound, and a query that needs more hears which."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse.limits.config import MIB, RateLimitConfig
from lakehouse.setting import at_least, between, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryConfig(RateLimitConfig):
    query_processes: int = setting(
        2, unit="queries", why="So many run at once for one process of the parent, each in its own.", **at_least(1)
    )
    query_waiting_max: int = setting(
        16, unit="queries", why="So many more may wait for their turn; others hear when to come back.", **at_least(0)
    )
    query_per_key_max: int = setting(
        4, unit="queries", why="One access key has at most so many, running or waiting.", **at_least(1)
    )
    query_timeout_ms: int = setting(
        30_000, unit="ms", why="A query that takes longer is ended, and so is one that waited so long.", **at_least(100)
    )
    query_memory_bytes_max: int = setting(
        512 * MIB,
        unit="bytes",
        why="DuckDB may use so much for one query; its process ends with twice as much and 256 MiB.",
        **at_least(64 * MIB),
    )
    query_temp_bytes_max: int = setting(
        1024 * MIB, unit="bytes", why="What does not fit goes to a temporary folder, up to here.", **at_least(0)
    )
    query_threads: int = setting(2, unit="threads", why="Threads of one query.", **between(1, 64))
    query_rows_max: int = setting(
        10_000, unit="rows", why="Rows of one answer; it says when there were more.", **at_least(1)
    )
    query_bytes_max: int = setting(
        16 * MIB, unit="bytes", why="Bytes of one answer; rows beyond are cut off as well.", **at_least(1024)
    )
    query_idle_ms: int = setting(
        300_000, unit="ms", why="Without a query for so long, no process waits for the next one.", **at_least(0)
    )
