"""JSON in: the messages as DoSQL's integration guide writes them, checked against the limits of a message.

A batch becomes the same BatchFrame as one of the package, so that behind this line nobody knows which it was but the
answer. Reading 100 events costs what 100 entries of the package do; telling the two apart costs 0.4 us.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from rpc import dialects
from rpc.batch import BatchFrame, Dialect
from rpc.dialects import size_bytes
from rpc.dolake import limits as sizes
from rpc.dolake.complaints import COMPLAINTS_MAX, complaint, complaints
from rpc.dolake.limits import WireLimits
from rpc.dolake.refusals import NotTaken, Reason, Refusal
from rpc.echo import HEAD_BYTES, Echo, echo_of
from rpc.entries import U16_MAX, RawEntry, from_wire
from rpc.errors import ProtocolError
from rpc.messages import ConnectMessage, HeartbeatMessage, WireEntry
from rpc.names import is_table, table_complaint

Int: TypeAlias = Annotated[int, Meta(ge=-(2**53) + 1, le=2**53 - 1)]
"""A number that is read and not used; who has had no ack yet may say -1."""
Name: TypeAlias = Annotated[str, Meta(min_length=1)]

_WORDS = r'"(?:(events|pendingEvents)|entries|pendingEntries)"\s*:'
_WORD_IN_TEXT, _WORD_IN_BYTES = re.compile(_WORDS), re.compile(_WORDS.encode())


class Event(WireEntry, frozen=True, kw_only=True):
    table: Name


class DolakeBatch(dialects.JsonBatch, tag="cdc_batch", frozen=True, kw_only=True):
    source_do_id: Name
    events: list[Event]
    entries: Raw | UnsetType = UNSET
    """The package's word for the same; a message with both is no batch of this dialect."""
    first_event_sequence: Int | UnsetType = UNSET
    last_event_sequence: Int | UnsetType = UNSET
    size_bytes: Int | UnsetType = UNSET
    retry_count: Int | UnsetType = UNSET


class DolakeHeartbeat(HeartbeatMessage, tag="heartbeat", frozen=True, kw_only=True):
    last_ack_sequence: Int = 0
    pending_events: Int | UnsetType = UNSET


class DolakeConnect(ConnectMessage, tag="connect", frozen=True, kw_only=True):
    last_ack_sequence: Int = 0


class EventTexts(msgspec.Struct):
    events: list[Raw]


class Kind(msgspec.Struct):
    type: str


_json = msgspec.json.Decoder(DolakeConnect | DolakeBatch | DolakeHeartbeat)
_events_json = msgspec.json.Decoder(EventTexts)
_kind_json = msgspec.json.Decoder(Kind)
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def dialect_in(data: str | bytes) -> Dialect | None:
    """Which dialect a message is in by the first word that only one of them has, or None when it shows none."""
    pattern = _WORD_IN_TEXT if isinstance(data, str) else _WORD_IN_BYTES
    found = pattern.search(data, 0, HEAD_BYTES)  # type: ignore[arg-type]
    if found is None:
        return None
    return Dialect.RPC if found[1] is None else Dialect.DOLAKE


def dialect_of(message: object, spoken: Dialect) -> Dialect:
    """What a connection speaks after this message; `spoken` before it.

    A `connect` of DoSQL is one of a package that wants JSON; the answers that follow are understood by both.
    """
    if isinstance(message, BatchFrame):
        return message.dialect
    if isinstance(message, ConnectMessage):
        return Dialect.RPC if message.epoch or message.capabilities.binary_protocol else Dialect.DOLAKE
    if isinstance(message, DolakeHeartbeat) and message.pending_events is not UNSET:
        return Dialect.DOLAKE
    return spoken


def check_size(data: str | bytes, limits: WireLimits) -> None:
    """Before anything is read. Raises NotTaken."""
    if (size := size_bytes(data, limits.max_payload_size)) > limits.max_payload_size:
        raise sizes.payload_too_large(size, limits, echo_of(data))


def read(data: str | bytes, limits: WireLimits) -> BatchFrame | ConnectMessage | HeartbeatMessage:
    """Raises ProtocolError with what could be read all the same; NotTaken says that no other dialect need be asked."""
    try:
        message: DolakeBatch | ConnectMessage | HeartbeatMessage = _json.decode(data)
    except _UNREADABLE as exc:
        text, echo = "; ".join(_mistakes(data, exc)), echo_of(data)
        raise ProtocolError(text, sequence_number=echo.sequence_number, correlation_id=echo.correlation_id) from None
    if not isinstance(message, DolakeBatch):
        return message
    if message.entries is not UNSET:
        raise _not_taken([], message, otherwise="entries: a batch has events or entries, not both")
    return frame_of(message, data, limits)


def _mistakes(data: str | bytes, exc: Exception) -> list[str]:
    if not data:
        return ["message: the frame is empty"]
    if not isinstance(exc, msgspec.ValidationError):
        return [f"message: not JSON: {exc}"]
    return (complaints(data, DolakeBatch) if _is_batch(data) else []) or [complaint(exc)]


def _is_batch(data: str | bytes) -> bool:
    try:
        return _kind_json.decode(data).type == "cdc_batch"
    except _UNREADABLE:
        return False


def frame_of(batch: DolakeBatch, data: str | bytes, limits: WireLimits) -> BatchFrame:
    check_size(data, limits)
    if len(batch.events) > limits.max_events_per_message:
        raise sizes.too_many_events(len(batch.events), limits, _echo(batch))
    try:
        raw = [from_wire(event) for event in batch.events]
        if _may_hold(limits.max_event_size, raw, data):
            _check_events(data, limits, _echo(batch))
        frame = dialects.packed(batch, raw, dialect=Dialect.DOLAKE)
    except NotTaken:
        raise
    except ProtocolError as exc:
        raise _not_taken(_misfits(batch.events), batch, otherwise=exc.message) from None
    if not all(map(is_table, frame.tables)):
        raise _not_taken(_misfits(batch.events), batch)
    return frame


def _may_hold(event_bytes: int, events: list[RawEntry], data: str | bytes) -> bool:
    """Whether one of the events may have more bytes: at most its documents, and all that is no document at all."""
    if (size := size_bytes(data, event_bytes)) <= event_bytes:
        return False
    documents = [len(event.before) + len(event.after) + len(event.metadata) for event in events]
    return size - sum(documents) + max(documents, default=0) > event_bytes


def _echo(batch: DolakeBatch) -> Echo:
    return Echo(batch.sequence_number, batch.correlation_id or None)


def _not_taken(mistakes: Iterable[str], batch: DolakeBatch, *, otherwise: str = "") -> NotTaken:
    text = "; ".join(islice(mistakes, COMPLAINTS_MAX)) or otherwise
    return NotTaken(Refusal(Reason.INVALID_FORMAT, text), _echo(batch))


def _check_events(data: str | bytes, limits: WireLimits, echo: Echo) -> None:
    """Another look at the whole text, 0.3 ms for 1 MiB."""
    for index, event in enumerate(_events_json.decode(data).events):
        if (size := len(event)) > limits.max_event_size:
            raise sizes.event_too_large(index, size, limits, echo)


def _misfits(events: Iterable[Event]) -> Iterator[str]:
    """What the types let through and a frame does not hold."""
    for index, event in enumerate(events):
        if not is_table(table := event.table.encode()):
            yield f"events[{index}].table: {table_complaint(table)}"
        if (size := len(event.row_id.encode())) > U16_MAX:
            yield f"events[{index}].rowId: has {size} bytes; at most {U16_MAX} fit"
        if event.metadata is not UNSET and (text := bytes(event.metadata))[:1] != b"{":
            yield f"events[{index}].metadata: expected an object, got {text[:40].decode('utf-8', 'replace')}"
