"""The child's half of EvoDB: changes of an edge database, durable here and then at the parent. No Django.

A name is loaded when it is asked for: of all this a parent needs a third, an application mostly its client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rpc.buffers import BufferedBatch, BufferSnapshot, ChildConnectionState, FlushTrigger, WebSocketAttachment
    from rpc.circuit import DEFAULT_RPC_CIRCUIT_BREAKER_OPTIONS, CircuitBreakerRpcConfig, CircuitBreakerRpcStats
    from rpc.circuit_breaker import (
        CircuitBreaker,
        CircuitBreakerError,
        CircuitBreakerOptions,
        CircuitBreakerStats,
        CircuitState,
        MonotonicTimeProvider,
    )
    from rpc.client import LakehouseRpcClient
    from rpc.codec import ProtocolCodec, get_codec
    from rpc.collection import CDCCollection, SqliteCollection
    from rpc.compression import Compression
    from rpc.config import (
        DEFAULT_CHILD_CONFIG,
        DEFAULT_PARENT_CONFIG,
        ChildConfig,
        EventEmitterConfig,
        OnHandlerErrorCallback,
        ParentConfig,
    )
    from rpc.create import create_rpc_client
    from rpc.deduplication import DEFAULT_DEDUP_CONFIG, DedupConfig, DeduplicationTracker, DedupStats
    from rpc.emitter import EventEmitter, RetryQueueStats
    from rpc.errors import (
        AccessDeniedError,
        BufferOverflowError,
        CaptureError,
        ConnectionError,
        FlushError,
        LakehouseRpcError,
        OutboxClosedError,
        OutboxCorruptError,
        ProtocolError,
    )
    from rpc.event_outbox import EventBufferFullError, EventOutbox
    from rpc.frames import (
        CapabilityFlags,
        decode_batch,
        decode_capabilities,
        decode_frame,
        encode_batch,
        encode_capabilities,
        encode_frame,
    )
    from rpc.guarded import CircuitBreakerRpcClient, create_circuit_breaker_rpc_client
    from rpc.handlers import Handlers
    from rpc.ids import generate_batch_id, generate_correlation_id
    from rpc.kinds import (
        RpcMessageType,
        is_ack_message,
        is_cdc_batch_message,
        is_connect_message,
        is_disconnect_message,
        is_flush_request_message,
        is_flush_response_message,
        is_heartbeat_message,
        is_nack_message,
        is_persisted_request_message,
        is_pong_message,
        is_status_message,
    )
    from rpc.messages import (
        DEFAULT_CLIENT_CAPABILITIES,
        UNSET,
        AckDetails,
        AckMessage,
        AckStatus,
        AnyRpcMessage,
        BufferStats,
        CDCBatchMessage,
        ClientCapabilities,
        ClientRpcMessage,
        ConnectMessage,
        DisconnectMessage,
        FlushReason,
        FlushRequestMessage,
        FlushResponseMessage,
        FlushResult,
        HeartbeatMessage,
        NackMessage,
        NackReason,
        ParentState,
        PersistedRequestMessage,
        PongMessage,
        RpcMessage,
        ServerRpcMessage,
        StatusMessage,
        WalEntry,
        WalOperation,
        WalOperationCode,
    )
    from rpc.negotiation import PayloadEncoding
    from rpc.outbox import DeadLetter, Outbox, OutboxBusyError, OutboxFull, OutboxTooSmallError
    from rpc.outbox_salvage import salvage, salvage_dead_letters
    from rpc.outcome import ClientState, ClientStats, RpcSendResult
    from rpc.protocol import decode_message, encode_message, is_binary_encoded
    from rpc.sync import SyncRpcClient, create_sync_rpc_client
    from rpc.tracing import traced

__all__ = [
    "DEFAULT_CHILD_CONFIG",
    "DEFAULT_CLIENT_CAPABILITIES",
    "DEFAULT_DEDUP_CONFIG",
    "DEFAULT_PARENT_CONFIG",
    "DEFAULT_RPC_CIRCUIT_BREAKER_OPTIONS",
    "UNSET",
    "AccessDeniedError",
    "AckDetails",
    "AckMessage",
    "AckStatus",
    "AnyRpcMessage",
    "BufferOverflowError",
    "BufferSnapshot",
    "BufferStats",
    "BufferedBatch",
    "CDCBatchMessage",
    "CDCCollection",
    "CapabilityFlags",
    "CaptureError",
    "ChildConfig",
    "ChildConnectionState",
    "CircuitBreaker",
    "CircuitBreakerError",
    "CircuitBreakerOptions",
    "CircuitBreakerRpcClient",
    "CircuitBreakerRpcConfig",
    "CircuitBreakerRpcStats",
    "CircuitBreakerStats",
    "CircuitState",
    "ClientCapabilities",
    "ClientRpcMessage",
    "ClientState",
    "ClientStats",
    "Compression",
    "ConnectMessage",
    "ConnectionError",
    "DeadLetter",
    "DedupConfig",
    "DedupStats",
    "DeduplicationTracker",
    "DisconnectMessage",
    "EventBufferFullError",
    "EventEmitter",
    "EventEmitterConfig",
    "EventOutbox",
    "FlushError",
    "FlushReason",
    "FlushRequestMessage",
    "FlushResponseMessage",
    "FlushResult",
    "FlushTrigger",
    "Handlers",
    "HeartbeatMessage",
    "LakehouseRpcClient",
    "LakehouseRpcError",
    "MonotonicTimeProvider",
    "NackMessage",
    "NackReason",
    "OnHandlerErrorCallback",
    "Outbox",
    "OutboxBusyError",
    "OutboxClosedError",
    "OutboxCorruptError",
    "OutboxFull",
    "OutboxTooSmallError",
    "ParentConfig",
    "ParentState",
    "PayloadEncoding",
    "PersistedRequestMessage",
    "PongMessage",
    "ProtocolCodec",
    "ProtocolError",
    "RetryQueueStats",
    "RpcMessage",
    "RpcMessageType",
    "RpcSendResult",
    "ServerRpcMessage",
    "SqliteCollection",
    "StatusMessage",
    "SyncRpcClient",
    "WalEntry",
    "WalOperation",
    "WalOperationCode",
    "WebSocketAttachment",
    "create_circuit_breaker_rpc_client",
    "create_rpc_client",
    "create_sync_rpc_client",
    "decode_batch",
    "decode_capabilities",
    "decode_frame",
    "decode_message",
    "encode_batch",
    "encode_capabilities",
    "encode_frame",
    "encode_message",
    "generate_batch_id",
    "generate_correlation_id",
    "get_codec",
    "is_ack_message",
    "is_binary_encoded",
    "is_cdc_batch_message",
    "is_connect_message",
    "is_disconnect_message",
    "is_flush_request_message",
    "is_flush_response_message",
    "is_heartbeat_message",
    "is_nack_message",
    "is_persisted_request_message",
    "is_pong_message",
    "is_status_message",
    "salvage",
    "salvage_dead_letters",
    "traced",
]

_ROOMS = {
    "rpc.buffers": "BufferedBatch BufferSnapshot ChildConnectionState FlushTrigger WebSocketAttachment",
    "rpc.circuit": "DEFAULT_RPC_CIRCUIT_BREAKER_OPTIONS CircuitBreakerRpcConfig CircuitBreakerRpcStats",
    "rpc.circuit_breaker": (
        "CircuitBreaker CircuitBreakerError CircuitBreakerOptions CircuitBreakerStats CircuitState "
        "MonotonicTimeProvider"
    ),
    "rpc.client": "LakehouseRpcClient",
    "rpc.codec": "ProtocolCodec get_codec",
    "rpc.collection": "CDCCollection SqliteCollection",
    "rpc.compression": "Compression",
    "rpc.config": (
        "DEFAULT_CHILD_CONFIG DEFAULT_PARENT_CONFIG ChildConfig EventEmitterConfig OnHandlerErrorCallback ParentConfig"
    ),
    "rpc.create": "create_rpc_client",
    "rpc.deduplication": "DEFAULT_DEDUP_CONFIG DedupConfig DeduplicationTracker DedupStats",
    "rpc.emitter": "EventEmitter RetryQueueStats",
    "rpc.errors": (
        "AccessDeniedError BufferOverflowError CaptureError ConnectionError FlushError LakehouseRpcError "
        "OutboxClosedError OutboxCorruptError ProtocolError"
    ),
    "rpc.event_outbox": "EventBufferFullError EventOutbox",
    "rpc.frames": (
        "CapabilityFlags decode_batch decode_capabilities decode_frame encode_batch encode_capabilities encode_frame"
    ),
    "rpc.guarded": "CircuitBreakerRpcClient create_circuit_breaker_rpc_client",
    "rpc.handlers": "Handlers",
    "rpc.ids": "generate_batch_id generate_correlation_id",
    "rpc.kinds": (
        "RpcMessageType is_ack_message is_cdc_batch_message is_connect_message is_disconnect_message "
        "is_flush_request_message is_flush_response_message is_heartbeat_message is_nack_message "
        "is_persisted_request_message is_pong_message is_status_message"
    ),
    "rpc.messages": (
        "DEFAULT_CLIENT_CAPABILITIES UNSET AckDetails AckMessage AckStatus AnyRpcMessage BufferStats CDCBatchMessage "
        "ClientCapabilities ClientRpcMessage ConnectMessage DisconnectMessage FlushReason FlushRequestMessage "
        "FlushResponseMessage FlushResult HeartbeatMessage NackMessage NackReason ParentState PersistedRequestMessage "
        "PongMessage RpcMessage ServerRpcMessage StatusMessage WalEntry WalOperation WalOperationCode"
    ),
    "rpc.negotiation": "PayloadEncoding",
    "rpc.outbox": "DeadLetter Outbox OutboxBusyError OutboxFull OutboxTooSmallError",
    "rpc.outbox_salvage": "salvage salvage_dead_letters",
    "rpc.outcome": "ClientState ClientStats RpcSendResult",
    "rpc.protocol": "decode_message encode_message is_binary_encoded",
    "rpc.sync": "SyncRpcClient create_sync_rpc_client",
    "rpc.tracing": "traced",
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_ROOM_OF[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
