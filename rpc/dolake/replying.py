"""JSON out: acks and nacks in the words of DoSQL's integration guide, and answers that both dialects understand.

A `status` and a `flush_response` may be asked for before a child has said anything that shows its dialect, so they say
what differs under both names.
"""

from __future__ import annotations

from math import floor

import msgspec
from msgspec import UNSET, Struct, UnsetType

from rpc.batch import BatchFrame
from rpc.dolake.refusals import Gauges, Reason, Refusal
from rpc.echo import Echo
from rpc.messages import AckStatus, AnySequence, FlushResponseMessage, RpcMessage, StatusMessage

BACKPRESSURE_ABOVE = 0.8
SUGGESTED_DELAY_MS_MAX = 500


class RateLimit(Struct, rename="camel", frozen=True, kw_only=True):
    limit: int
    remaining: int
    reset_at: int


class DolakeAckDetails(Struct, rename="camel", frozen=True, kw_only=True):
    events_processed: int
    buffer_utilization: float
    time_until_flush: int | UnsetType = UNSET
    remaining_tokens: int | UnsetType = UNSET
    bucket_capacity: int | UnsetType = UNSET
    suggested_delay_ms: int | UnsetType = UNSET
    circuit_breaker_state: str | UnsetType = UNSET


class DolakeAck(RpcMessage, tag="ack", frozen=True, kw_only=True):
    correlation_id: str | UnsetType = UNSET
    sequence_number: AnySequence
    status: AckStatus
    details: DolakeAckDetails
    rate_limit: RateLimit | UnsetType = UNSET


class DolakeNack(RpcMessage, tag="nack", frozen=True, kw_only=True):
    correlation_id: str | UnsetType = UNSET
    sequence_number: AnySequence
    reason: Reason
    error_message: str
    should_retry: bool
    retry_delay_ms: int | UnsetType = UNSET
    max_size: int | UnsetType = UNSET
    actual_size: int | UnsetType = UNSET
    received_size: int | UnsetType = UNSET
    rate_limit: RateLimit | UnsetType = UNSET


_encode = msgspec.json.Encoder().encode


def ack(
    frame: BatchFrame, status: AckStatus, *, entries: int, utilization: float, gauges: Gauges | None, now_ms: int
) -> str:
    """Without gauges the answer leaves out what it does not know."""
    details = DolakeAckDetails(
        events_processed=entries,
        buffer_utilization=round(utilization, 4),
        time_until_flush=UNSET if gauges is None else gauges.time_until_flush_ms,
        remaining_tokens=UNSET if gauges is None else gauges.remaining_tokens,
        bucket_capacity=UNSET if gauges is None else gauges.bucket_capacity,
        suggested_delay_ms=_suggested_delay_ms(utilization, gauges),
        circuit_breaker_state=UNSET if gauges is None else gauges.circuit_breaker_state,
    )
    message = DolakeAck(
        timestamp=now_ms,
        correlation_id=frame.correlation_id or UNSET,
        sequence_number=frame.sequence,
        status=status,
        details=details,
        rate_limit=_rate_limit(gauges),
    )
    return _encode(message).decode()


def nack(refusal: Refusal, echo: Echo, *, now_ms: int) -> str:
    received = UNSET if refusal.received_size is None else refusal.received_size
    message = DolakeNack(
        timestamp=now_ms,
        correlation_id=echo.correlation_id or UNSET,
        sequence_number=echo.sequence_number,
        reason=refusal.reason,
        error_message=refusal.text,
        should_retry=refusal.retry_delay_ms is not None,
        retry_delay_ms=UNSET if refusal.retry_delay_ms is None else refusal.retry_delay_ms,
        max_size=UNSET if refusal.max_size is None else refusal.max_size,
        actual_size=received,
        received_size=received,
        rate_limit=_rate_limit(refusal.gauges),
    )
    return _encode(message).decode()


def status(message: StatusMessage) -> str:
    """connectedSources and eventCount, beside what the package calls them."""
    said = msgspec.to_builtins(message)
    said["connectedSources"] = message.connected_children
    said["buffer"]["eventCount"] = message.buffer.entry_count
    return _encode(said).decode()


def flush_response(message: FlushResponseMessage) -> str:
    """eventsFlushed, beside what the package calls it."""
    said = msgspec.to_builtins(message)
    said["result"]["eventsFlushed"] = message.result.entries_flushed
    return _encode(said).decode()


def _suggested_delay_ms(utilization: float, gauges: Gauges | None) -> int | UnsetType:
    above = BACKPRESSURE_ABOVE if gauges is None else gauges.backpressure_threshold
    return floor(utilization * SUGGESTED_DELAY_MS_MAX) if utilization > above else UNSET


def _rate_limit(gauges: Gauges | None) -> RateLimit | UnsetType:
    if gauges is None:
        return UNSET
    return RateLimit(limit=gauges.limit, remaining=gauges.remaining_tokens, reset_at=gauges.reset_at_s)
