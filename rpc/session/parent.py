"""The parent's end of a connection: frames become replies, or messages that need more than the session knows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from msgspec import UNSET

from rpc.batch import BatchFrame
from rpc.errors import ProtocolError
from rpc.messages import (
    AckDetails,
    AckMessage,
    AckStatus,
    ConnectMessage,
    DisconnectMessage,
    FlushRequestMessage,
    HeartbeatMessage,
    NackMessage,
    NackReason,
    PongMessage,
)
from rpc.names import NAME_CHARS_MAX, is_name, is_table, table_complaint
from rpc.protocol import encode_message, read

SEQUENCE_MAX = 2**63 - 1
"""The wire carries 64 bits; what is stored are signed 64."""
WINDOW_RETRY_MS = 100
CORRELATION_BYTES_MAX = 1024
"""Of an id that is echoed in the answer; a longer one is refused and not echoed."""

Step: TypeAlias = str | bytes | BatchFrame | ConnectMessage | FlushRequestMessage | DisconnectMessage
"""A reply to send as it is, or the message that the shell has to act on."""


class ParentSession:
    """One connection. `source` is the child it is credited to, once known; a header or the first message names it."""

    def __init__(self, *, source: str | None, window_batches_max: int) -> None:
        self.source = source
        self.unanswered = 0
        """Batches handed to the shell and not yet answered."""
        self._binary_replies = False
        self._window_batches_max = window_batches_max

    def receive(self, frame: str | bytes, *, now_ms: int) -> Step:
        """The next step. Whatever the bytes are, this answers and the connection lives."""
        if frame == "ping":
            return "pong"
        try:
            message = read(frame)
            if isinstance(message, BatchFrame):
                _check(message)
                self._bind(message.source, message.shard)
            elif isinstance(message, FlushRequestMessage) and not _is_echoed(message.correlation_id or None):
                raise ProtocolError(f"correlationId is longer than {CORRELATION_BYTES_MAX} bytes")
            elif isinstance(message, ConnectMessage):
                self._bind(message.source_do_id, message.source_shard_name or None)
        except ProtocolError as exc:
            return self._refuse_format(exc, now_ms)
        if isinstance(message, HeartbeatMessage):
            return str(encode_message(PongMessage(timestamp=message.timestamp, server_time=now_ms)))
        if isinstance(message, ConnectMessage):
            self._binary_replies = message.capabilities.binary_replies is True
        if isinstance(message, BatchFrame):
            if self.unanswered >= self._window_batches_max:
                return self._refuse_window(message, now_ms)
            self.unanswered += 1
        return message

    def ack(
        self, frame: BatchFrame, status: AckStatus, *, entries: int, utilization: float, now_ms: int
    ) -> str | bytes:
        """The answer to a batch that is durable."""
        self.unanswered -= 1
        message = AckMessage(
            timestamp=now_ms,
            correlation_id=frame.correlation_id or UNSET,
            sequence_number=frame.sequence,
            status=status,
            details=AckDetails(entries_processed=entries, buffer_utilization=round(utilization, 4)),
        )
        return encode_message(message, binary=self._binary_replies)

    def nack(
        self, frame: BatchFrame, reason: NackReason, text: str, *, retry_delay_ms: int | None, now_ms: int
    ) -> str | bytes:
        """The answer to a batch that was not stored; without a delay there is no use in trying again."""
        self.unanswered -= 1
        return self._nack(frame.sequence, frame.correlation_id, reason, text, retry_delay_ms, now_ms)

    def _bind(self, source: str, shard: str | None) -> None:
        if self.source is None:
            _check_name("sourceDoId", source)
            self.source = source
        if shard is not None:
            _check_name("sourceShardName", shard)

    def _refuse_format(self, exc: ProtocolError, now_ms: int) -> str | bytes:
        echo = exc.correlation_id if _is_echoed(exc.correlation_id) else None
        return self._nack(exc.sequence_number, echo, NackReason.INVALID_FORMAT, exc.message, None, now_ms)

    def _refuse_window(self, frame: BatchFrame, now_ms: int) -> str | bytes:
        text = (
            f"{self.unanswered} batches of this connection wait for an answer, at most {self._window_batches_max} may"
        )
        return self._nack(frame.sequence, frame.correlation_id, NackReason.RATE_LIMITED, text, WINDOW_RETRY_MS, now_ms)

    def _nack(
        self,
        sequence: int,
        correlation_id: str | None,
        reason: NackReason,
        text: str,
        retry_delay_ms: int | None,
        now_ms: int,
    ) -> str | bytes:
        message = NackMessage(
            timestamp=now_ms,
            correlation_id=correlation_id or UNSET,
            sequence_number=sequence,
            reason=reason,
            error_message=text[:2000],
            should_retry=retry_delay_ms is not None,
            retry_delay_ms=UNSET if retry_delay_ms is None else retry_delay_ms,
        )
        return encode_message(message, binary=self._binary_replies)


def _check_name(field: str, value: str) -> None:
    if not is_name(value):
        raise ProtocolError(f"{field} is {value[:100]!r}, wanted 1 to {NAME_CHARS_MAX} printable characters")


def _is_echoed(correlation_id: str | None) -> bool:
    return correlation_id is None or len(correlation_id.encode("utf-8", "surrogatepass")) <= CORRELATION_BYTES_MAX


def _check(frame: BatchFrame) -> None:
    """Raises ProtocolError for a batch that is well formed and still cannot be stored."""
    if not _is_echoed(frame.correlation_id):
        raise ProtocolError(
            f"correlationId is longer than {CORRELATION_BYTES_MAX} bytes", sequence_number=frame.sequence
        )
    try:
        _check_tables(frame.tables)
        if frame.sequence > SEQUENCE_MAX or (frame.entries and max(frame.entry_sequences) > SEQUENCE_MAX):
            raise ProtocolError(f"batch {frame.sequence} has a sequence above {SEQUENCE_MAX}")
    except ProtocolError as exc:
        exc.sequence_number, exc.correlation_id = frame.sequence, frame.correlation_id
        raise


def _check_tables(tables: Iterable[bytes]) -> None:
    for name in tables:
        if not is_table(name):
            raise ProtocolError(table_complaint(name))
