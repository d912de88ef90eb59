"""Messages to bytes and back: JSON text for everything, and a binary layout for cdc_batch, ack and nack.

`read` is what the parent does with a frame: a batch stays bytes (`BatchFrame`), checked but not taken apart.
`decode_message` gives whole messages with entries as values. Both turn any bytes whatsoever into a message or a
ProtocolError. Golden bytes: tests/vectors/rpc_wire.json.
"""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET

from rpc import arrow_payload, batch, columns, dialects, entries, replies
from rpc.batch import KIND_BATCH, MESSAGE_BYTES_MAX, VERSION, BatchFrame, Dialect, Encoding
from rpc.dolake import reading as dolake
from rpc.dolake.limits import DEFAULT_WIRE_LIMITS, WireLimits
from rpc.dolake.refusals import NotTaken
from rpc.errors import ProtocolError
from rpc.messages import (
    AckMessage,
    AnyRpcMessage,
    CDCBatchMessage,
    ConnectMessage,
    DisconnectMessage,
    FlushRequestMessage,
    FlushResponseMessage,
    HeartbeatMessage,
    NackMessage,
    PersistedRequestMessage,
    PongMessage,
    StatusMessage,
    WalEntry,
)
from rpc.surrogates import mended

__all__ = ["BatchFrame", "ClientFrame", "Encoding", "decode_message", "encode_message", "is_binary_encoded", "read"]

MAGIC = b"\xc2\xcd"
PREFIX = struct.Struct("<HBBB")
"""magic, version, kind, flags: how every binary message begins"""

ClientFrame: TypeAlias = (
    BatchFrame | ConnectMessage | HeartbeatMessage | FlushRequestMessage | PersistedRequestMessage | DisconnectMessage
)

_client_json = msgspec.json.Decoder(
    ConnectMessage
    | dialects.WireBatch
    | HeartbeatMessage
    | FlushRequestMessage
    | PersistedRequestMessage
    | DisconnectMessage
)
_any_json = msgspec.json.Decoder(
    ConnectMessage
    | dialects.WireBatch
    | HeartbeatMessage
    | FlushRequestMessage
    | PersistedRequestMessage
    | DisconnectMessage
    | AckMessage
    | NackMessage
    | StatusMessage
    | PongMessage
    | FlushResponseMessage
)
_encode_json = msgspec.json.Encoder().encode


def is_binary_encoded(data: str | bytes) -> bool:
    return not isinstance(data, str) and bytes(data[:2]) == MAGIC


def read(
    frame: str | bytes,
    *,
    documents: bool = False,
    spoken: Dialect = Dialect.RPC,
    limits: WireLimits = DEFAULT_WIRE_LIMITS,
) -> ClientFrame:
    """A frame of a child. Raises ProtocolError with whatever of the message could be read.

    `documents`: Arrow was agreed on in `connect` (rpc.negotiation). `spoken`: the dialect of a message that shows none.
    `limits`: those of DoLake's dialect.
    """
    if is_binary_encoded(frame):
        data = bytes(frame)  # type: ignore[arg-type]
        if _kind(data) != KIND_BATCH:
            raise ProtocolError(f"Unexpected message type: {data[3]}, a child sends {KIND_BATCH}")
        return batch.read(data, documents=documents)
    try:
        return _read_json(frame, spoken, limits)
    except NotTaken:
        raise
    except ProtocolError:
        whole = mended(frame)
        if whole is frame:
            raise
    return _read_json(whole, spoken, limits)


def _read_json(text: str | bytes, spoken: Dialect, limits: WireLimits) -> ClientFrame:
    """In the dialect that the text shows; once more in the other one only when that fails."""
    shown = dolake.dialect_in(text)
    if (shown or spoken) is Dialect.DOLAKE:
        dolake.check_size(text, limits)
    try:
        return dolake.read(text, limits) if shown is Dialect.DOLAKE else _read_package(text)
    except NotTaken:
        raise
    except ProtocolError as exc:
        first = exc
    try:
        return _read_package(text) if shown is Dialect.DOLAKE else dolake.read(text, limits)
    except NotTaken:
        raise
    except ProtocolError as second:
        raise (second if shown is None and spoken is Dialect.DOLAKE else first) from None


def _read_package(text: str | bytes) -> ClientFrame:
    message = dialects.read(text, _client_json)
    return dialects.frame_of(message) if isinstance(message, dialects.WireBatch) else message


def decode_message(data: str | bytes) -> AnyRpcMessage:
    """Any message of either side, entries as values. Raises ProtocolError."""
    if is_binary_encoded(data):
        data = bytes(data)  # type: ignore[arg-type]
        kind = _kind(data)
        if kind == KIND_BATCH:
            return _message_of(batch.read(data, documents=True))
        return replies.decode_ack(data) if kind == replies.KIND_ACK else replies.decode_nack(data)
    message = dialects.read(data if isinstance(data, str) else bytes(data), _any_json)
    return _message_of(dialects.frame_of(message)) if isinstance(message, dialects.WireBatch) else message


def encode_message(message: AnyRpcMessage, *, binary: bool = True) -> str | bytes:
    """JSON text, or with `binary` the binary layout for those three that have one. Raises ProtocolError."""
    if binary and isinstance(message, CDCBatchMessage):
        payload, with_metadata = entries.payload_of(map(entries.from_wal, message.entries))
        return batch.encode(
            payload,
            encoding=Encoding.BINARY_METADATA if with_metadata else Encoding.BINARY,
            entry_count=len(message.entries),
            source=message.source_do_id,
            sequence=message.sequence_number,
            timestamp_ms=message.timestamp,
            correlation_id=message.correlation_id or None,
            is_retry=message.is_retry,
        )
    if binary and isinstance(message, AckMessage):
        return replies.encode_ack(message)
    if binary and isinstance(message, NackMessage):
        return replies.encode_nack(message)
    if isinstance(message, CDCBatchMessage):
        return _sized(_strict(entries.dump_value(_json_batch(message))))
    return _sized(_json_text(message))


def _json_text(message: AnyRpcMessage) -> bytes:
    try:
        return _encode_json(message)
    except (UnicodeEncodeError, TypeError, ValueError) as exc:
        raise ProtocolError(f"{type(message).__name__} cannot be written as JSON: {exc}") from None


def _strict(text: bytes) -> bytes:
    """Refuses what is no JSON for anybody else."""
    if b"NaN" in text or b"Infinity" in text:
        try:
            msgspec.json.decode(text)
        except msgspec.DecodeError as exc:
            raise ProtocolError(f"NaN and Infinity travel in a binary batch only: {exc}") from None
    return text


def _sized(text: bytes) -> str:
    if len(text) > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"message has {len(text)} bytes; at most {MESSAGE_BYTES_MAX} are allowed")
    return text.decode()


def _kind(data: bytes) -> int:
    if len(data) < replies.ACK.size:
        raise ProtocolError(f"binary message has {len(data)} bytes, wanted at least {replies.ACK.size}")
    if len(data) > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"message has {len(data)} bytes; at most {MESSAGE_BYTES_MAX} are allowed")
    _, version, kind, _ = PREFIX.unpack_from(data)
    if version != VERSION:
        raise ProtocolError(f"Unsupported protocol version: {version}, wanted {VERSION}")
    if kind not in (KIND_BATCH, replies.KIND_ACK, replies.KIND_NACK):
        raise ProtocolError(f"Unknown message type: {kind}, wanted 1 cdc_batch, 2 ack or 3 nack")
    return int(kind)


def _whole(frame: BatchFrame) -> list[WalEntry]:
    """The entries of a frame as values."""
    if frame.encoding is not Encoding.COLUMNS:
        return entries.to_wals(entries.fields(frame.payload, with_metadata=frame.encoding is Encoding.BINARY_METADATA))
    if columns.has_documents(frame.payload):
        return arrow_payload.decode(frame.payload)
    return entries.to_wals(columns.decode(frame.payload).fields())


def _message_of(frame: BatchFrame) -> CDCBatchMessage:
    whole = _whole(frame)
    return CDCBatchMessage(
        timestamp=frame.timestamp_ms,
        correlation_id=UNSET if frame.correlation_id is None else frame.correlation_id,
        source_do_id=frame.source,
        source_shard_name=UNSET if frame.shard is None else frame.shard,
        entries=whole,
        sequence_number=frame.sequence,
        first_entry_sequence=whole[0].sequence if whole else 0,
        last_entry_sequence=whole[-1].sequence if whole else 0,
        size_bytes=len(frame.payload),
        is_retry=frame.is_retry,
    )


def _json_batch(message: CDCBatchMessage) -> dict[str, Any]:
    """As builtins; entry values go through dump_value, which keeps NaN, Infinity and integers of any size."""
    fields = {name: getattr(message, name) for name in message.__struct_fields__ if name != "entries"}
    whole: dict[str, Any] = {"type": message.type}
    names = dict(zip(message.__struct_fields__, message.__struct_encode_fields__, strict=True))
    whole |= {names[name]: value for name, value in fields.items() if value is not UNSET}
    whole["entries"] = [
        {
            wire: getattr(entry, name)
            for name, wire in zip(entry.__struct_fields__, entry.__struct_encode_fields__, strict=True)
            if getattr(entry, name) is not UNSET
        }
        for entry in message.entries
    ]
    return whole
