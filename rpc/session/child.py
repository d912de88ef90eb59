"""The child's end of a connection: which batches are on the wire, what an answer means, and what is due when.

A batch that leaves is remembered until it is answered; a retry carries the same sequence. What the answers mean for the
outbox is the shell's to do, from the events returned here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec import UNSET, structs

from rpc import batch, negotiation
from rpc.backoff import delay_ms
from rpc.compression import Compression
from rpc.config import ChildConfig
from rpc.errors import ProtocolError
from rpc.messages import (
    AckMessage,
    AckStatus,
    AnyRpcMessage,
    ClientCapabilities,
    ConnectMessage,
    FlushReason,
    FlushRequestMessage,
    FlushResponseMessage,
    HeartbeatMessage,
    NackMessage,
    NackReason,
    PersistedRequestMessage,
    StatusMessage,
)
from rpc.negotiation import FALLBACK, PayloadEncoding, Terms
from rpc.protocol import decode_message, encode_message
from rpc.session.events import Event, Flushed, Persisted, Refusal, Resolved, Unseen, Welcome

RESUMED_BELOW = 0.5
"""A child that was told to wait sends batch by batch until an ack says that the parent's buffer is below this."""


@dataclass(slots=True)
class OnTheWire:
    sent_ms: int
    due_ms: int
    """When to send it again if nothing was heard."""
    attempts: int


class ChildSession:
    """One connection's worth of the child's side; a new connection gets a new session."""

    def __init__(
        self,
        *,
        child_id: str,
        epoch: int,
        config: ChildConfig,
        shard: str | None = None,
        kept: Iterable[PayloadEncoding] = (),
    ) -> None:
        """`kept` are the encodings of batches that are cut already and have to be sent as they are."""
        self.child_id = child_id
        self.epoch = epoch
        self._shard = shard
        self._config = config
        self._on_the_wire: dict[int, OnTheWire] = {}
        self._capabilities = self._offered(sorted(set(kept)))
        self._taken = set(negotiation.ALWAYS_TAKEN)
        self.terms = Terms(FALLBACK, Compression.NONE)
        """What may be sent on this connection; known with the welcome."""
        self.is_paused = False
        """The parent's buffer was full, and no ack said since that it has room again."""
        self._paused_until_ms = 0
        self._heard_ms: int | None = None
        self._pinged_ms: int | None = None

    @property
    def on_the_wire(self) -> int:
        """Batches sent and not yet answered."""
        return len(self._on_the_wire)

    def hello(self, *, last_ack_sequence: int, now_ms: int) -> str:
        self._heard_ms = now_ms
        message = ConnectMessage(
            timestamp=now_ms,
            source_do_id=self.child_id,
            source_shard_name=self._shard or UNSET,
            last_ack_sequence=last_ack_sequence,
            capabilities=self._capabilities,
            epoch=self.epoch,
        )
        return str(encode_message(message))

    def room(self, *, now_ms: int) -> int:
        """How many more batches may leave now."""
        if now_ms < self._paused_until_ms:
            return 0
        window = 1 if self.is_paused else self._config.max_pending_batches
        return max(0, window - len(self._on_the_wire))

    def batch(
        self,
        sequence: int,
        payload: bytes,
        *,
        entries: int,
        now_ms: int,
        encoding: PayloadEncoding = FALLBACK,
    ) -> bytes:
        """The frame of a batch, sent for the first time or again; from now on an answer is expected.

        Raises ProtocolError when the parent does not take a payload of this encoding.
        """
        if encoding not in self._taken:
            raise ProtocolError(
                f"batch {sequence} was cut with an {encoding} payload, which this parent does not take; "
                "connect to one that does, or upgrade it"
            )
        sent = self._on_the_wire.get(sequence)
        attempts = 1 if sent is None else sent.attempts + 1
        self._on_the_wire[sequence] = OnTheWire(now_ms, now_ms + self._config.ack_timeout_ms, attempts)
        return batch.encode(
            payload,
            encoding=negotiation.LAYOUTS[encoding],
            entry_count=entries,
            source=self.child_id,
            sequence=sequence,
            timestamp_ms=now_ms,
            is_retry=attempts > 1,
            strict_crc=True,
            compress_with=self.terms.compression,
        )

    def forget(self, sequence: int) -> None:
        """This batch is not to be sent any more; no answer is expected."""
        self._on_the_wire.pop(sequence, None)

    def flush_request(self, correlation_id: str, *, now_ms: int) -> str:
        message = FlushRequestMessage(
            timestamp=now_ms, source_do_id=self.child_id, reason=FlushReason.MANUAL, correlation_id=correlation_id
        )
        return str(encode_message(message))

    def persisted_request(self, sequence: int, *, now_ms: int) -> str:
        message = PersistedRequestMessage(timestamp=now_ms, source_do_id=self.child_id, sequence_number=sequence)
        return str(encode_message(message))

    def heartbeat(self, *, last_ack_sequence: int, pending_entries: int, now_ms: int) -> str:
        self._pinged_ms = now_ms
        message = HeartbeatMessage(
            timestamp=now_ms,
            source_do_id=self.child_id,
            last_ack_sequence=last_ack_sequence,
            pending_entries=pending_entries,
        )
        return str(encode_message(message))

    def receive(self, frame: str | bytes, *, now_ms: int, chance: float) -> Event | None:
        """What a frame of the parent means; None when it asks for nothing. Raises ProtocolError."""
        self._heard_ms, self._pinged_ms = now_ms, None
        if frame == "pong":
            return None
        message = _message(frame)
        if isinstance(message, AckMessage):
            return self._resolve(message)
        if isinstance(message, NackMessage):
            return self._refused(message, now_ms, chance)
        if isinstance(message, StatusMessage):
            self.terms = negotiation.settle(self._capabilities, message)
            self._taken |= negotiation.taken(message)
            resume = message.resume_sequence or 0
            return Welcome(message, resume, max(resume, message.highest_sequence or 0), message.highest_epoch or 0)
        if isinstance(message, FlushResponseMessage):
            return Flushed(message.correlation_id or "", message.result)
        return None

    def overdue(self, *, now_ms: int) -> list[int]:
        """Sequences to send again now, ascending: their answer did not come, or a nack said to wait until now."""
        if now_ms < self._paused_until_ms:
            return []
        due = sorted(sequence for sequence, sent in self._on_the_wire.items() if sent.due_ms <= now_ms)
        if not self.is_paused:
            return due
        return due[:1] if len(due) == len(self._on_the_wire) else []

    def wants_heartbeat(self, *, now_ms: int) -> bool:
        silent_ms = now_ms - (self._heard_ms if self._heard_ms is not None else now_ms)
        return self._pinged_ms is None and silent_ms >= self._config.heartbeat_interval_ms

    def is_dead(self, *, now_ms: int) -> bool:
        """A heartbeat was not answered in time, or a batch ran out of retries: the connection is only half there."""
        if self._pinged_ms is not None and now_ms - self._pinged_ms >= self._config.heartbeat_timeout_ms:
            return True
        return any(
            sent.attempts > self._config.max_retries and sent.due_ms <= now_ms for sent in self._on_the_wire.values()
        )

    def due_in_ms(self, *, now_ms: int) -> int:
        """Milliseconds until something of the above may become true."""
        times = [max(sent.due_ms, self._paused_until_ms) for sent in self._on_the_wire.values()]
        if self.is_paused:  # what is due waits for the one that is under way
            times = [time_ms for time_ms in times if time_ms > now_ms] or times
        if self._pinged_ms is not None:
            times.append(self._pinged_ms + self._config.heartbeat_timeout_ms)
        else:
            times.append((self._heard_ms or now_ms) + self._config.heartbeat_interval_ms)
        if self._paused_until_ms > now_ms:
            times.append(self._paused_until_ms)
        return max(0, min(times) - now_ms)

    def _offered(self, kept: Sequence[PayloadEncoding]) -> ClientCapabilities:
        """What `connect` says; a child that wants nothing special offers nothing."""
        capabilities = ClientCapabilities(
            max_batch_size=self._config.max_batch_size, max_message_size=batch.MESSAGE_BYTES_MAX
        )
        encodings, compressions = negotiation.offers(wanted=(PayloadEncoding(self._config.encoding),))
        if self._config.encoding != FALLBACK or kept:
            encodings += [one.value for one in kept if one.value not in encodings]
            capabilities = structs.replace(capabilities, encodings=encodings)
        if self._config.compression == "zstd":
            capabilities = structs.replace(capabilities, compression=True, compressions=compressions)
        return capabilities

    def _resolve(self, ack: AckMessage) -> Resolved | Persisted | None:
        if self._on_the_wire.pop(ack.sequence_number, None) is None:
            if ack.status is not AckStatus.PERSISTED:
                return None
            return Persisted(ack.sequence_number, ack.details.persisted_path or None if ack.details else None)
        utilization = None if ack.details is UNSET else ack.details.buffer_utilization
        if utilization is None or utilization < RESUMED_BELOW:
            self.is_paused = False
        return Resolved(ack.sequence_number, ack.status, utilization)

    def _refused(self, nack: NackMessage, now_ms: int, chance: float) -> Refusal | Unseen | None:
        sent = self._on_the_wire.get(nack.sequence_number)
        if sent is None:
            if nack.sequence_number == 0 and not nack.should_retry:
                raise ProtocolError(f"the parent did not understand a frame: {nack.error_message}")
            is_unseen = nack.reason is NackReason.INVALID_SEQUENCE
            return Unseen(nack.sequence_number, nack.error_message) if is_unseen else None
        if not nack.should_retry:
            del self._on_the_wire[nack.sequence_number]
            return Refusal(nack.sequence_number, nack.reason, nack.error_message, final=True)
        wait_ms = self._retry_delay_ms(nack, sent.attempts, chance)
        sent.due_ms, sent.attempts = now_ms + wait_ms, 0
        # What was refused for want of room is not helped by more of it.
        self._paused_until_ms = max(self._paused_until_ms, now_ms + wait_ms)
        self.is_paused |= nack.reason is NackReason.BUFFER_FULL
        return Refusal(nack.sequence_number, nack.reason, nack.error_message, final=False)

    def _retry_delay_ms(self, nack: NackMessage, attempts: int, chance: float) -> int:
        own_ms = delay_ms(
            attempts,
            initial_ms=self._config.initial_retry_delay_ms,
            max_ms=self._config.max_retry_delay_ms,
            multiplier=self._config.backoff_multiplier,
            chance=chance,
        )
        return max(own_ms, 0 if nack.retry_delay_ms is UNSET else nack.retry_delay_ms)


def _message(frame: str | bytes) -> AnyRpcMessage:
    try:
        return decode_message(frame)
    except ProtocolError as exc:
        text = f"what came is no message of a parent ({exc}); is the address that of a parent, and its path /ws?"
        raise ProtocolError(text) from None
