"""What a handshake says and what a child hears when it is known. Pure."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from msgspec import UNSET

from lakehouse.parent.arrivals import Arrival, Held, Knock
from rpc.messages import BufferStats, ParentState, StatusMessage
from rpc.negotiation import Accepted

DEFAULT_PARENT = "default"


def knock_of(scope: dict[str, Any]) -> Knock:
    """The handshake of an ASGI scope. A key comes as a Bearer header, or as `?token=` where headers cannot be set."""
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    scheme, _, token = headers.get(b"authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        token = query.get("token", [""])[0]
    table = query.get("table", [""])[0]
    parent = scope.get("url_route", {}).get("kwargs", {}).get("parent") or (f"lakehouse-{table}" if table else "")
    return Knock(
        parent or DEFAULT_PARENT,
        token.strip(),
        headers.get(b"x-client-id") or None,
        headers.get(b"x-shard-name") or None,
    )


def status(held: Held, arrival: Arrival, accepted: Accepted, *, now_ms: int) -> StatusMessage:
    """The parent's answer to `connect`."""
    return StatusMessage(
        timestamp=now_ms,
        state=ParentState.RECEIVING if held.batches else ParentState.IDLE,
        buffer=buffer(held),
        connected_children=held.connected,
        last_flush_time=held.last_flush_ms or UNSET,
        resume_sequence=UNSET if arrival.resume_sequence is None else arrival.resume_sequence,
        highest_epoch=UNSET if arrival.highest_epoch is None else arrival.highest_epoch,
        highest_sequence=UNSET if arrival.highest_sequence is None else arrival.highest_sequence,
        persisted_acks=True if arrival.source.own_epoch else UNSET,
        **accepted._asdict(),
    )


def buffer(held: Held) -> BufferStats:
    """What a parent holds, as a child hears it."""
    return BufferStats(
        batch_count=held.batches,
        entry_count=held.entries,
        total_size_bytes=held.size_bytes,
        utilization=round(held.utilization, 4),
        oldest_batch_time=UNSET if held.oldest_ms is None else held.oldest_ms,
        newest_batch_time=UNSET if held.newest_ms is None else held.newest_ms,
    )
