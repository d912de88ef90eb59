"""What a client tells about itself and about a batch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rpc.errors import LakehouseRpcError
from rpc.messages import AckStatus


class ClientState(StrEnum):
    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    FAILED = "failed"
    """The parent refused this child, or could not be reached often enough; `connect` tries anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStats:
    """What the client did since it was made, and what its outbox holds."""

    state: ClientState
    last_sequence: int
    last_ack_sequence: int
    pending_batches: int
    batch_buffer_size: int
    """Entries that are in no batch yet."""
    batch_buffer_bytes: int
    """Bytes the outbox holds, in batches or not."""
    reconnect_attempts: int
    reconnects: int
    messages_sent: int
    bytes_sent: int
    acked_batches: int
    duplicates: int
    refused_batches: int
    retried_batches: int = 0
    """Batches that were sent more than once and wait for an answer."""
    dropped_entries: int = 0
    """Given up for want of room, as `outbox_when_full` asked."""
    last_ack_lsn: int = 0
    """The highest `lsn` among acknowledged entries that brought one."""
    is_paused: bool = False
    """The parent's buffer is full; batches leave one by one."""
    utilization: float = 0.0
    """The fullest of the window, the outbox and the parent's buffer, 0 to 1."""
    error: str | None = None
    """What ended the connection for good, when the state is FAILED."""

    @property
    def connected(self) -> bool:
        return self.state is ClientState.CONNECTED


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcSendResult:
    """What became of a batch. `success` means durable at the parent, or in its table when that was waited for.

    Else `error` says why. With `kept` the entries are in the outbox or at the parent: do not hand them in again.
    """

    success: bool
    sequence_numbers: list[int]
    entries: int
    status: AckStatus | None = None
    error: str | None = None
    kept: bool = False
    cause: LakehouseRpcError | None = None
    """What ended the connection before there was an answer."""
    path: str | None = None
    """Metadata file of a table the batch is in, when that was waited for."""


@dataclass(slots=True)
class Tally:
    """Counts of a client's life."""

    welcomes: int = 0
    messages: int = 0
    size_bytes: int = 0
    acked: int = 0
    duplicates: int = 0
    refused: int = 0
    last_ack: int = 0
