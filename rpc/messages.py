"""The messages of @evodb/rpc as typed values: what a child says, what a parent answers.

Attributes are snake_case here and camelCase on the wire. An absent field is `UNSET` and never null, because for
`before` and `after` null is a value. Field lists: docs/protocol.md section 1.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated, Any, ClassVar, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

__all__ = [
    "DEFAULT_CLIENT_CAPABILITIES",
    "UNSET",
    "AckDetails",
    "AckMessage",
    "AckStatus",
    "AnyRpcMessage",
    "BufferStats",
    "CDCBatchMessage",
    "ClientCapabilities",
    "ClientRpcMessage",
    "ConnectMessage",
    "DisconnectMessage",
    "FlushReason",
    "FlushRequestMessage",
    "FlushResponseMessage",
    "FlushResult",
    "HeartbeatMessage",
    "NackMessage",
    "NackReason",
    "ParentState",
    "PersistedRequestMessage",
    "PongMessage",
    "RpcMessage",
    "ServerRpcMessage",
    "StatusMessage",
    "WalEntry",
    "WalOperation",
    "WalOperationCode",
]

UInt: TypeAlias = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""A count, a sequence or a time in ms since 1970. The bound is JSON's; binary frames carry up to 2**64 - 1."""

AnySequence: TypeAlias = Annotated[int, Meta(ge=0)]
"""A sequence as an answer echoes it: whatever a binary batch carried."""

OptionalText: TypeAlias = str | UnsetType


class WalOperation(StrEnum):
    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"


class WalOperationCode(IntEnum):
    """The operation as the one byte of a binary entry."""

    INSERT = 0
    UPDATE = 1
    DELETE = 2


class AckStatus(StrEnum):
    OK = "ok"
    """Durable in the parent's journal."""
    BUFFERED = "buffered"
    """Durable; the parent's buffer is over 80 % full."""
    PERSISTED = "persisted"
    """In the table."""
    DUPLICATE = "duplicate"
    """The same content was accepted before."""
    FALLBACK = "fallback"
    """Durable; the object store is away and rows wait for it."""


class NackReason(StrEnum):
    BUFFER_FULL = "buffer_full"
    RATE_LIMITED = "rate_limited"
    INVALID_SEQUENCE = "invalid_sequence"
    INVALID_FORMAT = "invalid_format"
    INTERNAL_ERROR = "internal_error"
    SHUTTING_DOWN = "shutting_down"


class ParentState(StrEnum):
    IDLE = "idle"
    RECEIVING = "receiving"
    FLUSHING = "flushing"
    RECOVERING = "recovering"
    ERROR = "error"


class FlushReason(StrEnum):
    """Why a child asks for a flush."""

    MANUAL = "manual"
    SHUTDOWN = "shutdown"
    BUFFER_FULL = "buffer_full"
    TIME_THRESHOLD = "time_threshold"


class WalEntry(Struct, rename="camel", frozen=True, kw_only=True):
    """One change of one row. `before` and `after` are any JSON value; absent is UNSET."""

    sequence: UInt
    timestamp: UInt
    operation: WalOperation
    table: str
    row_id: str
    before: Any = UNSET
    after: Any = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class WireEntry(Struct, rename="camel", frozen=True, kw_only=True):
    """A WalEntry whose JSON values stay the bytes they came as; what the parent reads, so that digits survive."""

    sequence: UInt
    timestamp: UInt
    operation: WalOperation
    table: str
    row_id: str
    before: Raw | UnsetType = UNSET
    after: Raw | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET


class ClientCapabilities(Struct, rename="camel", frozen=True, kw_only=True):
    """What a child can speak; an old child leaves out what it does not know.

    `binary_replies` asks for 25-byte binary acks instead of JSON text. `encodings` and `compressions` are what the
    child could send (rpc.negotiation); a parent says what it takes of them only to a child that has them here.
    """

    binary_protocol: bool = True
    compression: bool = False
    batching: bool = True
    max_batch_size: UInt = 1000
    max_message_size: UInt = 4 * 1024 * 1024
    binary_replies: bool | UnsetType = UNSET
    encodings: list[str] | UnsetType = UNSET
    compressions: list[str] | UnsetType = UNSET


DEFAULT_CLIENT_CAPABILITIES = ClientCapabilities()


class RpcMessage(Struct, rename="camel", tag_field="type", frozen=True, kw_only=True):
    """What every message has: its type (the tag) and the sender's clock in ms."""

    type: ClassVar[str] = ""
    timestamp: UInt


class ConnectMessage(RpcMessage, tag="connect", frozen=True, kw_only=True):
    type: ClassVar[str] = "connect"
    source_do_id: str
    source_shard_name: OptionalText = UNSET
    last_ack_sequence: UInt = 0
    protocol_version: UInt = 1
    capabilities: ClientCapabilities = DEFAULT_CLIENT_CAPABILITIES
    epoch: UInt | UnsetType = UNSET
    """Which life of the child's outbox the sequences belong to; only our client sends it."""


class CDCBatchMessage(RpcMessage, tag="cdc_batch", frozen=True, kw_only=True):
    type: ClassVar[str] = "cdc_batch"
    correlation_id: OptionalText = UNSET
    source_do_id: str
    source_shard_name: OptionalText = UNSET
    entries: list[WalEntry]
    sequence_number: UInt
    first_entry_sequence: UInt = 0
    last_entry_sequence: UInt = 0
    size_bytes: UInt = 0
    is_retry: bool = False
    retry_count: UInt = 0


class HeartbeatMessage(RpcMessage, tag="heartbeat", frozen=True, kw_only=True):
    type: ClassVar[str] = "heartbeat"
    source_do_id: str
    last_ack_sequence: UInt = 0
    pending_entries: UInt = 0


class FlushRequestMessage(RpcMessage, tag="flush_request", frozen=True, kw_only=True):
    type: ClassVar[str] = "flush_request"
    source_do_id: str
    reason: FlushReason = FlushReason.MANUAL
    correlation_id: OptionalText = UNSET


class PersistedRequestMessage(RpcMessage, tag="persisted_request", frozen=True, kw_only=True):
    type: ClassVar[str] = "persisted_request"
    source_do_id: str
    sequence_number: UInt


class DisconnectMessage(RpcMessage, tag="disconnect", frozen=True, kw_only=True):
    type: ClassVar[str] = "disconnect"
    reason: OptionalText = UNSET


class AckDetails(Struct, rename="camel", frozen=True, kw_only=True):
    entries_processed: UInt
    buffer_utilization: float
    time_until_flush: UInt | UnsetType = UNSET
    persisted_path: OptionalText = UNSET


class AckMessage(RpcMessage, tag="ack", frozen=True, kw_only=True):
    type: ClassVar[str] = "ack"
    correlation_id: OptionalText = UNSET
    sequence_number: AnySequence
    status: AckStatus
    batch_id: OptionalText = UNSET
    details: AckDetails | UnsetType = UNSET


class NackMessage(RpcMessage, tag="nack", frozen=True, kw_only=True):
    type: ClassVar[str] = "nack"
    correlation_id: OptionalText = UNSET
    sequence_number: AnySequence
    reason: NackReason
    error_message: str
    should_retry: bool
    retry_delay_ms: UInt | UnsetType = UNSET


class BufferStats(Struct, rename="camel", frozen=True, kw_only=True):
    """What the parent holds and has not written to tables yet."""

    batch_count: UInt
    entry_count: UInt
    total_size_bytes: UInt
    utilization: float
    oldest_batch_time: UInt | UnsetType = UNSET
    newest_batch_time: UInt | UnsetType = UNSET


class StatusMessage(RpcMessage, tag="status", frozen=True, kw_only=True):
    type: ClassVar[str] = "status"
    state: ParentState
    buffer: BufferStats
    connected_children: UInt
    last_flush_time: UInt | UnsetType = UNSET
    next_flush_time: UInt | UnsetType = UNSET
    resume_sequence: UInt | UnsetType = UNSET
    """Highest sequence up to which every batch of the child's epoch is durable; only sent to a child with an epoch."""
    highest_epoch: UInt | UnsetType = UNSET
    """The highest epoch the child ever named."""
    highest_sequence: UInt | UnsetType = UNSET
    """Highest sequence of the epoch that is durable, beyond a gap or not."""
    encodings: list[str] | UnsetType = UNSET
    """What the parent takes of the payload encodings the child offered; only sent to a child that offered some."""
    compressions: list[str] | UnsetType = UNSET
    """The same of compressions."""
    persisted_acks: bool | UnsetType = UNSET
    """Whether `persisted_request` is understood; only sent to a child with an epoch."""


class PongMessage(RpcMessage, tag="pong", frozen=True, kw_only=True):
    type: ClassVar[str] = "pong"
    server_time: UInt


class FlushResult(Struct, rename="camel", frozen=True, kw_only=True):
    success: bool
    batches_flushed: UInt = 0
    entries_flushed: UInt = 0
    bytes_written: UInt = 0
    paths: list[str] = []
    duration_ms: UInt = 0
    used_fallback: bool = False
    error: OptionalText = UNSET


class FlushResponseMessage(RpcMessage, tag="flush_response", frozen=True, kw_only=True):
    type: ClassVar[str] = "flush_response"
    correlation_id: OptionalText = UNSET
    result: FlushResult


ClientRpcMessage: TypeAlias = (
    ConnectMessage
    | CDCBatchMessage
    | HeartbeatMessage
    | FlushRequestMessage
    | PersistedRequestMessage
    | DisconnectMessage
)
ServerRpcMessage: TypeAlias = AckMessage | NackMessage | StatusMessage | PongMessage | FlushResponseMessage
AnyRpcMessage: TypeAlias = ClientRpcMessage | ServerRpcMessage
