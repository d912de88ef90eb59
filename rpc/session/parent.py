"""The parent's end of a connection: frames become replies, or messages that need more than the session knows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

from msgspec import UNSET

from rpc.batch import BatchFrame, Dialect
from rpc.dolake import replying
from rpc.dolake.limits import DEFAULT_WIRE_LIMITS, WireLimits
from rpc.dolake.reading import dialect_of
from rpc.dolake.refusals import SOON_MS, Gauges, NotTaken, Reason, Refusal
from rpc.echo import Echo, echo_of
from rpc.errors import ProtocolError
from rpc.messages import (
    AckDetails,
    AckMessage,
    AckStatus,
    ConnectMessage,
    DisconnectMessage,
    FlushRequestMessage,
    FlushResponseMessage,
    HeartbeatMessage,
    NackMessage,
    NackReason,
    PersistedRequestMessage,
    PongMessage,
    StatusMessage,
)
from rpc.names import NAME_CHARS_MAX, is_name, is_table, table_complaint
from rpc.negotiation import Accepted, accept, takes_documents
from rpc.protocol import encode_message, is_binary_encoded, read

SEQUENCE_MAX = 2**63 - 1
"""The wire carries 64 bits; what is stored are signed 64."""
WINDOW_RETRY_MS = 100
CORRELATION_BYTES_MAX = 1024
"""Of an id that is echoed in the answer; a longer one is refused and not echoed."""
TEXT_CHARS_MAX = 2000
"""Of a nack's error message."""

Step: TypeAlias = (
    str | bytes | BatchFrame | ConnectMessage | FlushRequestMessage | PersistedRequestMessage | DisconnectMessage
)
"""A reply to send as it is, or the message that the shell has to act on."""


class ParentSession:
    """One connection. `source` is the child it is credited to, once known; a header or the first message names it."""

    def __init__(
        self, *, source: str | None, window_batches_max: int, limits: WireLimits = DEFAULT_WIRE_LIMITS
    ) -> None:
        self.source = source
        self.unanswered = 0
        """Batches handed to the shell and not yet answered."""
        self.accepted = Accepted(UNSET, UNSET)
        """What the child's `connect` offered and this side takes; for the status that answers it."""
        self.dialect = Dialect.DOLAKE
        """What the child speaks. Until it shows, answers are in the dialect whose answers both understand."""
        self.refused: Reason | None = None
        """Why the last frame was answered with a nack, if it was."""
        self.size_violations = 0
        self.binary_replies = False
        self._window_batches_max = window_batches_max
        self._limits = limits

    def receive(self, frame: str | bytes, *, now_ms: int) -> Step:
        """The next step. Whatever the bytes are, this answers and the connection lives."""
        self.refused = None
        if frame == "ping":
            return "pong"
        try:
            documents = takes_documents(self.accepted)
            message = read(frame, documents=documents, spoken=self.dialect, limits=self._limits)
            self.dialect = dialect_of(message, self.dialect)
            if isinstance(message, BatchFrame):
                self._check(message)
            elif isinstance(message, FlushRequestMessage) and not _is_echoed(message.correlation_id or None):
                raise ProtocolError(f"correlationId is longer than {CORRELATION_BYTES_MAX} bytes")
            elif isinstance(message, ConnectMessage):
                self._bind(message.source_do_id, message.source_shard_name or None)
        except ProtocolError as exc:
            return self._refuse_frame(exc, now_ms)
        if isinstance(message, HeartbeatMessage):
            return str(encode_message(PongMessage(timestamp=message.timestamp, server_time=now_ms)))
        if isinstance(message, ConnectMessage):
            self.binary_replies = message.capabilities.binary_replies is True
            self.accepted = accept(message.capabilities, has_epoch=bool(message.epoch))
        if isinstance(message, BatchFrame):
            if self.unanswered >= self._window_batches_max:
                return self._refuse_window(message, now_ms)
            self.unanswered += 1
        return message

    def ack(
        self,
        frame: BatchFrame,
        status: AckStatus,
        *,
        entries: int,
        utilization: float,
        now_ms: int,
        gauges: Gauges | None = None,
    ) -> str | bytes:
        """The answer to a batch that is durable. `gauges` are told to who speaks of events."""
        self.unanswered -= 1
        if frame.dialect is Dialect.DOLAKE:
            return replying.ack(frame, status, entries=entries, utilization=utilization, gauges=gauges, now_ms=now_ms)
        message = AckMessage(
            timestamp=now_ms,
            correlation_id=frame.correlation_id or UNSET,
            sequence_number=frame.sequence,
            status=status,
            details=AckDetails(entries_processed=entries, buffer_utilization=round(utilization, 4)),
        )
        return encode_message(message, binary=self.binary_replies)

    def say(self, message: StatusMessage | FlushResponseMessage) -> str:
        """The answer to a `connect` or a `flush_request`, in the words that the child understands."""
        if self.dialect is Dialect.RPC:
            return str(encode_message(message))
        return replying.status(message) if isinstance(message, StatusMessage) else replying.flush_response(message)

    def persisted(self, sequence: int, path: str | None, *, now_ms: int) -> str:
        """The answer to a `persisted_request`: the batch is in its tables, `path` is the metadata of one of them."""
        details = AckDetails(entries_processed=0, buffer_utilization=0.0, persisted_path=path or UNSET)
        status = AckStatus.PERSISTED
        return str(
            encode_message(
                AckMessage(timestamp=now_ms, sequence_number=sequence, status=status, details=details), binary=False
            )
        )

    def failed(self, frame: str | bytes, *, now_ms: int) -> tuple[Echo, str | bytes]:
        """The answer to a frame that `receive` could not bear, and which batch it was, as far as that can be read."""
        echo = Echo() if is_binary_encoded(frame) else echo_of(frame)
        echo = echo if _is_echoed(echo.correlation_id) else Echo(echo.sequence_number)
        refusal = Refusal(Reason.INTERNAL_ERROR, "the message was not understood, through no fault of its own", SOON_MS)
        return echo, self._nack(self.dialect, refusal, echo, now_ms)

    def too_fast(
        self, correlation_id: str | None, retry_delay_ms: int, *, now_ms: int, gauges: Gauges | None = None
    ) -> str | bytes:
        """The answer to a message that is no batch and came when no token was left."""
        text = "more messages than this connection may send"
        refusal = Refusal(Reason.RATE_LIMITED, text, retry_delay_ms, gauges=gauges)
        return self._nack(self.dialect, refusal, Echo(0, correlation_id), now_ms)

    def never_seen(self, sequence: int, *, now_ms: int) -> str | bytes:
        """The answer to a `persisted_request` for a batch that was never acknowledged."""
        text = f"batch {sequence} was never acknowledged; say connect, send it, and ask again"
        return self._nack(self.dialect, Refusal(Reason.INVALID_SEQUENCE, text), Echo(sequence, None), now_ms)

    def nack(
        self,
        frame: BatchFrame,
        reason: NackReason | Reason,
        text: str,
        *,
        retry_delay_ms: int | None,
        now_ms: int,
        max_size: int | None = None,
        gauges: Gauges | None = None,
    ) -> str | bytes:
        """The answer to a batch that was not stored; without a delay there is no use in trying again.

        `max_size` and `gauges` are told to who speaks of events, and the reasons that only they know are put as the
        nearest one to others.
        """
        self.unanswered -= 1
        refusal = Refusal(Reason(reason), text, retry_delay_ms, max_size=max_size, gauges=gauges)
        return self._nack(frame.dialect, refusal, Echo(frame.sequence, frame.correlation_id), now_ms)

    def _check(self, frame: BatchFrame) -> None:
        """Raises ProtocolError, which names the batch, for one that is well formed and still cannot be stored."""
        correlation_id = frame.correlation_id
        try:
            if not _is_echoed(correlation_id):
                correlation_id = None
                raise ProtocolError(f"correlationId is longer than {CORRELATION_BYTES_MAX} bytes")
            _check_tables(frame.tables)
            if frame.sequence > SEQUENCE_MAX or (frame.entries and max(frame.entry_sequences) > SEQUENCE_MAX):
                raise ProtocolError(f"batch {frame.sequence} has a sequence above {SEQUENCE_MAX}")
            self._bind(frame.source, frame.shard)
        except ProtocolError as exc:
            exc.sequence_number, exc.correlation_id = frame.sequence, correlation_id
            raise

    def _bind(self, source: str, shard: str | None) -> None:
        if self.source is None:
            _check_name("sourceDoId", source)
            self.source = source
        if shard is not None:
            _check_name("sourceShardName", shard)

    def _refuse_frame(self, exc: ProtocolError, now_ms: int) -> str | bytes:
        if isinstance(exc, NotTaken):
            dialect, refusal = Dialect.DOLAKE, exc.refusal
        else:
            dialect, refusal = self.dialect, Refusal(Reason.INVALID_FORMAT, exc.message)
        self.refused = refusal.reason
        self.size_violations += refusal.reason.is_size_violation
        correlation_id = exc.correlation_id if _is_echoed(exc.correlation_id) else None
        return self._nack(dialect, refusal, Echo(exc.sequence_number, correlation_id), now_ms)

    def _refuse_window(self, frame: BatchFrame, now_ms: int) -> str | bytes:
        text = (
            f"{self.unanswered} batches of this connection wait for an answer, at most {self._window_batches_max} may"
        )
        self.refused = Reason.RATE_LIMITED
        refusal = Refusal(Reason.RATE_LIMITED, text, WINDOW_RETRY_MS)
        return self._nack(frame.dialect, refusal, Echo(frame.sequence, frame.correlation_id), now_ms)

    def _nack(self, dialect: Dialect, refusal: Refusal, echo: Echo, now_ms: int) -> str | bytes:
        refusal = replace(refusal, text=refusal.text[:TEXT_CHARS_MAX])
        if dialect is Dialect.DOLAKE:
            return replying.nack(refusal, echo, now_ms=now_ms)
        message = NackMessage(
            timestamp=now_ms,
            correlation_id=echo.correlation_id or UNSET,
            sequence_number=echo.sequence_number,
            reason=refusal.reason.of_the_package,
            error_message=refusal.text,
            should_retry=refusal.retry_delay_ms is not None,
            retry_delay_ms=UNSET if refusal.retry_delay_ms is None else refusal.retry_delay_ms,
        )
        return encode_message(message, binary=self.binary_replies)


def _check_name(field: str, value: str) -> None:
    if not is_name(value):
        raise ProtocolError(f"{field} is {value[:100]!r}, wanted 1 to {NAME_CHARS_MAX} printable characters")


def _is_echoed(correlation_id: str | None) -> bool:
    return correlation_id is None or len(correlation_id.encode("utf-8", "surrogatepass")) <= CORRELATION_BYTES_MAX


def _check_tables(tables: Iterable[bytes]) -> None:
    for name in tables:
        if not is_table(name):
            raise ProtocolError(table_complaint(name))
