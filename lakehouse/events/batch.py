"""The body of POST /ingest: which events, and the batch of the journal that they become. Pure.

A batch is stored whole or not at all, under one number of its namespace: one made of its `batchId`, or one by chance.
An event that brings an id is stored once in its namespace, whatever batch it comes in.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import UNSET, UnsetType
from xxhash import xxh3_128_digest

from lakehouse.events import event as events
from lakehouse.events.event import EVENT_BYTES_MAX, UNREADABLE, BadEvent, Event
from lakehouse.events.namespaces import SOURCE, TABLE
from lakehouse.events.refusals import Code, of_events, refuse
from lakehouse.journal.dedup import BY_CHANCE, BY_KEY, number_of
from rpc import columns
from rpc.batch import BatchFrame, Encoding
from rpc.entries import RawEntry
from rpc.surrogates import mended

EVENTS_MAX = 1000
BODY_BYTES_MAX = 1024 * 1024
BATCH_ID_CHARS_MAX = 255
INSERT = 0


BatchId = str | UnsetType | None


class IngestBody(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    events: list[msgspec.Raw]
    batch_id: BatchId = UNSET


_json = msgspec.json.Decoder(IngestBody)
_any = msgspec.json.Decoder(msgspec.Raw)


def read(data: bytes) -> IngestBody:
    """Raises EventsRefused."""
    try:
        data.decode()  # what stands in an event is not decoded here, and whoever reads it could not
        body = _json.decode(data)
    except UNREADABLE:
        body = _read(mended(data))
    if len(body.events) > EVENTS_MAX:
        raise refuse(Code.INVALID_BATCH, f"events: has {len(body.events)}, wanted at most {EVENTS_MAX}")
    if body.batch_id and not (len(body.batch_id) <= BATCH_ID_CHARS_MAX and body.batch_id.isprintable()):
        text = f"batchId: is {body.batch_id[:40]!r}, wanted 1 to {BATCH_ID_CHARS_MAX} printable characters"
        raise refuse(Code.INVALID_BATCH, text)
    return body


def _read(data: bytes) -> IngestBody:
    try:
        data.decode()
        return _json.decode(data)
    except msgspec.ValidationError as exc:
        if not _is_json(data):
            raise refuse(Code.INVALID_JSON, "not JSON") from None
        raise refuse(Code.INVALID_BATCH, f'{exc}; wanted {{"events": [...], "batchId"?: "..."}}') from None
    except UNREADABLE as exc:
        raise refuse(Code.INVALID_JSON, f"not JSON: {exc}" if data else "the body is empty") from None


def _is_json(data: bytes) -> bool:
    try:
        _any.decode(data)
    except UNREADABLE:
        return False
    return True


def checked(raw: Iterable[msgspec.Raw], *, now_ms: int, any_age: bool) -> list[Event]:
    """All of them, or EventsRefused with the places of those that are not well."""
    found, bad, large = [], {}, {}
    for index, one in enumerate(raw):
        if events.is_too_large(one):
            large[index] = f": has {len(one)} bytes, wanted at most {EVENT_BYTES_MAX}"
            continue
        try:
            found.append(events.read(one, now_ms=now_ms, any_age=any_age))
        except BadEvent as exc:
            bad[index] = str(exc)
    if bad:
        raise of_events(Code.INVALID_EVENT, bad)
    if large:
        raise of_events(Code.EVENT_TOO_LARGE, large, maxSize=EVENT_BYTES_MAX)
    return found


def sequence_of(batch_id: BatchId, *, number: int) -> int:
    """The number of a batch; `number` is one by chance."""
    return BY_KEY + number_of(batch_id) if batch_id else BY_CHANCE + number


def frame(found: list[Event], *, namespace: str, sequence: int, now_ms: int) -> BatchFrame:
    """The batch as the journal takes it."""
    rows = [_row(one, namespace, sequence, index) for index, one in enumerate(found)]
    has_ids = any(one.id is not None for one in found)
    return BatchFrame(
        now_ms,
        None,
        SOURCE,
        None,
        sequence,
        False,
        Encoding.COLUMNS,
        columns.encode(rows),
        len(rows),
        {TABLE.encode()},
        list(range(len(rows))),
        once=[b"" if one.id is None else xxh3_128_digest(one.id.encode()) for one in found] if has_ids else [],
    )


def _row(one: Event, namespace: str, sequence: int, index: int) -> RawEntry:
    event_id = one.id or f"{sequence:016x}-{index:03d}"
    after = events.row(one, event_id=event_id, namespace=namespace)
    return RawEntry(index, one.moment_ms, INSERT, TABLE.encode(), event_id.encode(), b"", after)
