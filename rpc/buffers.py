"""What a parent holds for its children, as plain data: waiting batches, connections, and a picture of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from rpc.messages import DEFAULT_CLIENT_CAPABILITIES, BufferStats, ClientCapabilities, WalEntry

__all__ = ["BufferSnapshot", "BufferedBatch", "ChildConnectionState", "FlushTrigger", "WebSocketAttachment"]


class FlushTrigger(StrEnum):
    """Why a flush happens."""

    ENTRIES = "entries"
    BYTES = "bytes"
    AGE = "age"
    """The oldest batch waited long enough."""
    INTERVAL = "interval"
    """Nothing was flushed for long enough, and something waits."""
    MANUAL = "manual"
    GOODBYE = "goodbye"
    """The last child of the parent left."""
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferedBatch:
    """A batch that waits for a flush. `received_ms` is the parent's clock."""

    batch_id: str
    source_do_id: str
    source_shard_name: str | None = None
    entries: tuple[WalEntry, ...]
    received_ms: int
    sequence_number: int
    size_bytes: int
    persisted: bool = False
    in_fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildConnectionState:
    """A child as its parent sees it."""

    source_do_id: str
    source_shard_name: str | None = None
    last_received_sequence: int = 0
    last_ack_sequence: int = 0
    connected_ms: int
    last_activity_ms: int
    batches_received: int = 0
    entries_received: int = 0
    capabilities: ClientCapabilities = DEFAULT_CLIENT_CAPABILITIES


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferSnapshot:
    """A parent's buffer at one moment."""

    batches: tuple[BufferedBatch, ...] = ()
    children: dict[str, ChildConnectionState] = field(default_factory=dict)
    stats: BufferStats
    last_flush_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketAttachment:
    """What a connection has to remember while its process sleeps or is replaced."""

    source_do_id: str
    source_shard_name: str | None = None
    epoch: int | None = None
    last_ack_sequence: int = 0
    connected_ms: int
    protocol_version: int = 1
    capabilities: ClientCapabilities = DEFAULT_CLIENT_CAPABILITIES
