"""The JSON of the answers, as OpenAPI shows it. Times are milliseconds since 1970, as on the wire."""

from __future__ import annotations

from typing import Any

from ninja import Schema
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from lakehouse.parent.greeting import DEFAULT_PARENT

SOURCES_MAX = 1000
NOW_MS = 1_700_000_000_000


def _config(example: dict[str, Any] | None = None) -> ConfigDict:
    extra: Any = {} if example is None else {"examples": [example]}
    return ConfigDict(alias_generator=to_camel, populate_by_name=True, json_schema_extra=extra)


class ParentQuery(Schema):
    parent: str = Field(DEFAULT_PARENT, description="The parent.")


class StatusQuery(ParentQuery):
    limit: int = Field(SOURCES_MAX, ge=0, le=SOURCES_MAX, description="So many children at most.")


class Error(Schema):
    """What was wrong: what was found, and what was wanted."""

    model_config = _config({"error": "no parent is called 'eu'; children make one by naming it, or the admin does"})
    error: str


class Refused(Schema):
    """Events that were not stored. With `retryDelayMs` they may come again, after `Retry-After` seconds."""

    model_config = _config({"error": "events[0].table: is required", "reason": "invalid_format"})
    error: str
    reason: str | None = Field(None, description="As a nack says it on a socket.")
    retry_delay_ms: int | None = None
    max_size: int | None = Field(None, description="The bound that was in the way, in bytes or events.")
    received_size: int | None = None


class Stored(Schema):
    """The events are durable."""

    model_config = _config({"success": True, "eventsReceived": 100, "isDuplicate": False})
    success: bool
    events_received: int
    is_duplicate: bool = Field(description="The same request was stored before, and not again.")
    suggested_delay_ms: int | None = Field(None, description="A pause that would help; the buffer is nearly full.")


class Flushed(Schema):
    """What flushes did since they were asked for. On success everything durable by then is in its tables."""

    model_config = _config(
        {
            "success": True,
            "batchesFlushed": 12,
            "eventsFlushed": 1200,
            "bytesWritten": 48_210,
            "paths": ["s3://lake/lake/orders/metadata/00007-f3.metadata.json"],
            "durationMs": 412,
            "usedFallback": False,
        }
    )
    success: bool
    batches_flushed: int
    events_flushed: int
    bytes_written: int
    paths: list[str] = Field(description="Metadata files of the tables, at most 1000.")
    duration_ms: int
    used_fallback: bool
    error: str | None = None


class CheckResult(Schema):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"ok": False, "latency_ms": 2000, "error": "no answer within 2000 ms"}]}
    )
    ok: bool
    latency_ms: int
    error: str | None = Field(None, description="The kind of error, of a fuse all of it; the log has the rest.")


class Ready(Schema):
    """Ready when every check is; each ends within 2 s, and what was found is told again for a second."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ready": True,
                    "checks": {
                        name: {"ok": True, "latency_ms": 3, "error": None}
                        for name in ("database", "broker", "object_store", "catalog", "fuses")
                    },
                }
            ]
        }
    )
    ready: bool
    checks: dict[str, CheckResult]


class QueryRefused(Schema):
    """A query that was not answered, and why."""

    model_config = _config({"error": "there is no table lake.ordrs; in lake there is orders", "code": "INVALID_QUERY"})
    error: str
    code: str | None = None


class Cancelled(Schema):
    model_config = _config({"cancelled": True})
    cancelled: bool


class ColumnSaid(Schema):
    name: str
    type: str = Field(description="As DuckDB calls it.")


class Answered(Schema):
    """What JSON has no kind for is text: decimals, times, and integers beyond 2^53 - 1 (docs/query.md)."""

    model_config = _config(
        {
            "columns": [{"name": "_ts", "type": "TIMESTAMP WITH TIME ZONE"}, {"name": "total", "type": "DECIMAL(9,2)"}],
            "rows": [["2026-01-31T12:00:00Z", "4.50"]],
            "rowCount": 1,
            "truncated": False,
            "executionTimeMs": 42,
        }
    )
    columns: list[ColumnSaid]
    rows: list[list[Any]]
    row_count: int
    truncated: bool = Field(description="There were more rows than the answer may have.")
    truncated_by: str | None = Field(None, description="rows or bytes.")
    execution_time_ms: int


class Buffer(Schema):
    """What is durable and in no table yet."""

    model_config = _config()
    batch_count: int
    event_count: int
    entry_count: int = Field(description="The same number, as @evodb/rpc calls it.")
    total_size_bytes: int
    utilization: float = Field(description="By events or bytes, whichever is fuller; 1 is full.")
    oldest_batch_time: int | None = None
    newest_batch_time: int | None = None


class SourceState(Schema):
    model_config = _config()
    source_do_id: str
    source_shard_name: str | None = None
    state: str = Field(description="awake, hibernating or gone; a child without a socket is gone.")
    last_seen: int
    epoch: int = Field(description="The life its numbers belong to; 0 for what came over HTTP.")
    sequence: int | None = Field(description="Every batch up to it is durable; null when the child gave none.")
    batches: int
    events: int
    duplicates: int


class DedupStats(Schema):
    model_config = _config()
    checks: int = Field(description="Batches compared with what is stored.")
    duplicates: int
    duplicate_rate: float
    sources: int = Field(description="Children the parent knows.")
    window_ms: int


class Fallback(Schema):
    """Rows that wait for the object store."""

    model_config = _config()
    batches: int
    rows: int
    bytes: int
    oldest_time: int | None = None
    last_error: str | None = None


class LastFlush(Schema):
    model_config = _config()
    trigger: str
    started_time: int
    finished_time: int
    duration_ms: int
    batches: int
    events: int
    rows: int
    bytes_written: int
    dead_letters: int
    commit_number: int


class Status(Schema):
    model_config = _config(
        {
            "parent": "default",
            "timestamp": NOW_MS,
            "state": "receiving",
            "buffer": {
                "batchCount": 3,
                "eventCount": 300,
                "entryCount": 300,
                "totalSizeBytes": 41_213,
                "utilization": 0.003,
                "oldestBatchTime": NOW_MS - 4000,
                "newestBatchTime": NOW_MS - 100,
            },
            "connectedSources": 1,
            "sourceStates": [
                {
                    "sourceDoId": "shop-1",
                    "sourceShardName": None,
                    "state": "awake",
                    "lastSeen": NOW_MS - 100,
                    "epoch": NOW_MS - 60_000,
                    "sequence": 17,
                    "batches": 17,
                    "events": 1700,
                    "duplicates": 1,
                }
            ],
            "dedupStats": {"checks": 18, "duplicates": 1, "duplicateRate": 0.0556, "sources": 1, "windowMs": 300_000},
            "rateLimits": {"messagesPerSecond": 1000, "burstCapacity": 50},
            "rateLimitMetrics": {"activeConnections": 1, "messagesRateLimited": 0},
            "degradedMode": False,
            "circuitBreakerState": "closed",
            "loadLevel": "normal",
            "fallback": {"batches": 0, "rows": 0, "bytes": 0, "oldestTime": None, "lastError": None},
            "lastFlush": None,
            "nextFlushTime": NOW_MS + 26_000,
        }
    )
    parent: str
    timestamp: int
    state: str = Field(description="idle, receiving, flushing or recovering.")
    buffer: Buffer
    connected_sources: int
    source_states: list[SourceState] = Field(description="Those heard of last, the newest first.")
    dedup_stats: DedupStats
    rate_limits: dict[str, int | float] = Field(description="The limits of this process (docs/settings.md).")
    rate_limit_metrics: dict[str, int] = Field(
        description="Connections of this process, the mean size of what it remembers of one that sleeps, and what the "
        "limits did since it began."
    )
    degraded_mode: bool = Field(description="The load is high, or the object store is away.")
    circuit_breaker_state: str = Field(
        description="Of the object store: closed, open (nobody asks it; rows go to the fallback) or half_open."
    )
    load_level: str = Field(description="normal, elevated, high or critical.")
    fallback: Fallback
    last_flush: LastFlush | None = None
    next_flush_time: int | None = Field(None, description="When time alone makes a flush due; null: nothing waits.")
