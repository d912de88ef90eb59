"""Which message is this: the `type` of every message, and a question for each."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeGuard

from rpc.messages import (
    AckMessage,
    CDCBatchMessage,
    ConnectMessage,
    DisconnectMessage,
    FlushRequestMessage,
    FlushResponseMessage,
    HeartbeatMessage,
    NackMessage,
    PersistedRequestMessage,
    PongMessage,
    RpcMessage,
    StatusMessage,
)

__all__ = [
    "RpcMessageType",
    "is_ack_message",
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
]


class RpcMessageType(StrEnum):
    CONNECT = "connect"
    CDC_BATCH = "cdc_batch"
    HEARTBEAT = "heartbeat"
    FLUSH_REQUEST = "flush_request"
    PERSISTED_REQUEST = "persisted_request"
    DISCONNECT = "disconnect"
    ACK = "ack"
    NACK = "nack"
    STATUS = "status"
    PONG = "pong"
    FLUSH_RESPONSE = "flush_response"


def is_connect_message(message: RpcMessage) -> TypeGuard[ConnectMessage]:
    return isinstance(message, ConnectMessage)


def is_cdc_batch_message(message: RpcMessage) -> TypeGuard[CDCBatchMessage]:
    return isinstance(message, CDCBatchMessage)


def is_heartbeat_message(message: RpcMessage) -> TypeGuard[HeartbeatMessage]:
    return isinstance(message, HeartbeatMessage)


def is_flush_request_message(message: RpcMessage) -> TypeGuard[FlushRequestMessage]:
    return isinstance(message, FlushRequestMessage)


def is_persisted_request_message(message: RpcMessage) -> TypeGuard[PersistedRequestMessage]:
    return isinstance(message, PersistedRequestMessage)


def is_disconnect_message(message: RpcMessage) -> TypeGuard[DisconnectMessage]:
    return isinstance(message, DisconnectMessage)


def is_ack_message(message: RpcMessage) -> TypeGuard[AckMessage]:
    return isinstance(message, AckMessage)


def is_nack_message(message: RpcMessage) -> TypeGuard[NackMessage]:
    return isinstance(message, NackMessage)


def is_status_message(message: RpcMessage) -> TypeGuard[StatusMessage]:
    return isinstance(message, StatusMessage)


def is_pong_message(message: RpcMessage) -> TypeGuard[PongMessage]:
    return isinstance(message, PongMessage)


def is_flush_response_message(message: RpcMessage) -> TypeGuard[FlushResponseMessage]:
    return isinstance(message, FlushResponseMessage)
