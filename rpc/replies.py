"""Acks and nacks as bytes, for children that asked for binary replies.

ack  = header(25) [, u16 length, correlation id]
nack = header(32), text [, u16 length, correlation id]
"""

from __future__ import annotations

import struct
from typing import Any

from msgspec import UNSET, UnsetType

from rpc.batch import MAGIC, VERSION, Flag
from rpc.entries import utf8
from rpc.errors import ProtocolError
from rpc.messages import AckMessage, AckStatus, NackMessage, NackReason

KIND_ACK, KIND_NACK = 2, 3
ACK = struct.Struct("<HBBB3xQQB")
"""magic, version, kind, flags, timestamp ms, sequence, status"""
NACK = struct.Struct("<HBBB3xQQBBIH")
"""magic, version, kind, flags, timestamp ms, sequence, reason, should retry, retry delay ms, len(text)"""
LENGTH = struct.Struct("<H")
assert (ACK.size, NACK.size) == (25, 32)

STATUSES = tuple(AckStatus(name) for name in ("ok", "buffered", "persisted", "duplicate", "fallback"))
REASONS = tuple(NackReason)


def encode_ack(message: AckMessage) -> bytes:
    flags = Flag.CORRELATION if message.correlation_id else 0
    fields = (MAGIC, VERSION, KIND_ACK, flags, message.timestamp, message.sequence_number)
    return _pack(ACK, *fields, STATUSES.index(message.status)) + _tail(message.correlation_id)


def encode_nack(message: NackMessage) -> bytes:
    flags = Flag.CORRELATION if message.correlation_id else 0
    fields = (MAGIC, VERSION, KIND_NACK, flags, message.timestamp, message.sequence_number)
    text = message.error_message.encode("utf-8", "replace")
    delay_ms = message.retry_delay_ms or 0
    header = _pack(NACK, *fields, REASONS.index(message.reason), message.should_retry, delay_ms, len(text))
    return header + text + _tail(message.correlation_id)


def _pack(layout: struct.Struct, *fields: Any) -> bytes:
    try:
        return layout.pack(*fields)
    except struct.error as exc:
        raise ProtocolError(f"message does not fit the binary layout: {exc}") from None


def _tail(correlation_id: str | UnsetType) -> bytes:
    if not correlation_id:
        return b""
    text = utf8(correlation_id, "correlation id")
    return _pack(LENGTH, len(text)) + text


def decode_ack(data: bytes) -> AckMessage:
    _, _, _, flags, timestamp_ms, sequence, status = ACK.unpack_from(data)
    if status >= len(STATUSES):
        raise ProtocolError(f"Unknown ack status: {status}, wanted 0 to {len(STATUSES) - 1}")
    return AckMessage(
        timestamp=timestamp_ms,
        correlation_id=_read_tail(data, ACK.size, flags),
        sequence_number=sequence,
        status=STATUSES[status],
    )


def decode_nack(data: bytes) -> NackMessage:
    if len(data) < NACK.size:
        raise ProtocolError(f"nack has {len(data)} bytes, wanted at least {NACK.size}")
    _, _, _, flags, timestamp_ms, sequence, reason, should_retry, delay_ms, text_len = NACK.unpack_from(data)
    if reason >= len(REASONS):
        raise ProtocolError(f"Unknown nack reason: {reason}, wanted 0 to {len(REASONS) - 1}")
    end = NACK.size + text_len
    return NackMessage(
        timestamp=timestamp_ms,
        correlation_id=_read_tail(data, end, flags),
        sequence_number=sequence,
        reason=REASONS[reason],
        error_message=_text(data, NACK.size, end),
        should_retry=bool(should_retry),
        retry_delay_ms=delay_ms or UNSET,
    )


def _read_tail(data: bytes, position: int, flags: int) -> str | UnsetType:
    if not flags & Flag.CORRELATION:
        _check_end(data, position)
        return UNSET
    if position + LENGTH.size > len(data):
        raise ProtocolError(f"message has {len(data)} bytes and ends within its correlation id")
    begin = position + LENGTH.size
    end = begin + LENGTH.unpack_from(data, position)[0]
    _check_end(data, end)
    return _text(data, begin, end)


def _check_end(data: bytes, end: int) -> None:
    if end != len(data):
        raise ProtocolError(f"message has {len(data)} bytes, its header says {end}")


def _text(data: bytes, begin: int, end: int) -> str:
    try:
        return data[begin:end].decode()
    except UnicodeDecodeError as exc:
        raise ProtocolError(f"text is not UTF-8: {exc}") from None
