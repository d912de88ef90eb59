"""GET /status: a parent at one moment, what the database says beside what this process knows."""

from __future__ import annotations

from dataclasses import asdict, fields

from pydantic.alias_generators import to_camel

from lakehouse.flush.breaker import BreakerState
from lakehouse.http.documents import Buffer, DedupStats, Fallback, LastFlush, SourceState, Status
from lakehouse.http.rows import Picture
from lakehouse.journal.dedup import BY_KEY
from lakehouse.limits.config import RateLimitConfig
from lakehouse.models import Child, Flush
from lakehouse.parent.house import House


def status(house: House, seen: Picture, *, now_ms: int) -> Status:
    load = house.load(seen.parent.pk or 0, utilization=seen.held.utilization)
    return Status(
        parent=seen.parent.name,
        timestamp=now_ms,
        state=seen.state,
        buffer=_buffer(seen),
        connected_sources=seen.held.connected,
        source_states=[_source(child) for child in seen.sources],
        dedup_stats=_dedup(seen),
        rate_limits=limits_of(house),
        rate_limit_metrics=metrics_of(house),
        degraded_mode=load.is_degraded or seen.breaker != BreakerState.CLOSED,
        circuit_breaker_state=seen.breaker,
        load_level=load,
        fallback=Fallback(**seen.fallback),
        last_flush=None if seen.last_flush is None else _flush(seen.last_flush),
        next_flush_time=seen.next_flush_ms,
    )


def limits_of(house: House) -> dict[str, int | float]:
    """The numbers among the limits; addresses and networks are nobody's business."""
    named = {row.name: getattr(house.settings, row.name) for row in fields(RateLimitConfig)}
    return {to_camel(name): value for name, value in named.items() if isinstance(value, (int, float))}


def metrics_of(house: House) -> dict[str, int]:
    counted = {to_camel(name): count for name, count in asdict(house.doorman.tally).items()}
    here = {
        "activeConnections": len(house.doorman.gate.guests),
        "hibernatingConnections": house.dormitory.asleep,
        "hibernatingConnectionBytes": house.dormitory.kept_bytes(),
    }
    return here | counted


def _buffer(seen: Picture) -> Buffer:
    held = seen.held
    return Buffer(
        batch_count=held.batches,
        event_count=held.entries,
        entry_count=held.entries,
        total_size_bytes=held.size_bytes,
        utilization=round(held.utilization, 4),
        oldest_batch_time=held.oldest_ms,
        newest_batch_time=held.newest_ms,
    )


def _source(child: Child) -> SourceState:
    return SourceState(
        source_do_id=child.name,
        source_shard_name=child.shard or None,
        state=child.state,
        last_seen=child.last_seen_ms,
        epoch=child.epoch,
        sequence=child.sequence if 0 <= child.sequence < BY_KEY else None,
        batches=child.batches,
        events=child.entries,
        duplicates=child.duplicates,
    )


def _dedup(seen: Picture) -> DedupStats:
    checks, duplicates = seen.counts["batches"] + seen.counts["duplicates"], seen.counts["duplicates"]
    return DedupStats(
        checks=checks,
        duplicates=duplicates,
        duplicate_rate=round(duplicates / checks, 4) if checks else 0.0,
        sources=seen.counts["sources"],
        window_ms=seen.parent.settings.deduplication_window_ms,
    )


def _flush(flush: Flush) -> LastFlush:
    finished_ms = flush.finished_ms or flush.started_ms
    return LastFlush(
        trigger=flush.trigger,
        started_time=flush.started_ms,
        finished_time=finished_ms,
        duration_ms=finished_ms - flush.started_ms,
        batches=flush.batches,
        events=flush.entries,
        rows=flush.rows,
        bytes_written=flush.size_bytes,
        dead_letters=flush.dead_letters,
        commit_number=flush.commit_number or 0,
    )
