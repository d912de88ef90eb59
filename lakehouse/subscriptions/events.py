"""What a subscriber hears: an entry of the journal as an event, in the words of events.do. Pure.

An entry of the table `events` that is an event (it has a type and a moment) is told as it is. Every other entry is a
change of a collection: collection.insert, .update or .delete with the document, what it was, and a bookmark that only
grows within its source. The id of an event is made of where it came from, so it is the same however often it is told.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson
from xxhash import xxh3_128_hexdigest

EVENTS_TABLE = "events"
TEST_TYPE = "subscription.test"
OPERATIONS = ("insert", "update", "delete")
DELETE = 2
_TYPE = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS_MAX = 253_402_300_799_999
ID_CHARS_MAX = 200


class Entry(NamedTuple):
    """One entry and where it came from; `operation` is an index into OPERATIONS. Texts are JSON, None when absent."""

    table: str
    row_id: str
    operation: int
    before: str | None
    after: str | None
    sequence: int
    timestamp_ms: int
    source: str
    shard: str
    epoch: int
    batch_sequence: int


class Found(NamedTuple):
    """A batch of a commit. `epoch`, `sequence` and `received_ms` are those its rows have."""

    batch_id: int
    source: str
    shard: str
    epoch: int
    sequence: int
    received_ms: int
    encoding: str
    size_bytes: int
    letter_id: int | None
    """The dead letter that this batch is a replay of."""


class Event(NamedTuple):
    """Its id, its type and the JSON of all of it."""

    event_id: str
    type: str
    table: str
    body: bytes


def event_of(parent: str, entry: Entry) -> Event:
    after = _read(entry.after)
    if entry.table == EVENTS_TABLE and entry.operation == 0 and _is_event(after):
        with suppress(orjson.JSONEncodeError):  # too deep to get an id, so it is told as any other document
            return _told_as_it_is(after, entry, parent)
    event_id, name = id_of(parent, entry), f"collection.{OPERATIONS[entry.operation]}"
    event: dict[str, Any] = {
        "id": event_id,
        "type": name,
        "ts": moment(entry.timestamp_ms),
        "do": {"id": entry.source} | ({"name": entry.shard} if entry.shard else {}),
        "collection": entry.table,
        "docId": entry.row_id,
    }
    if entry.operation != DELETE and entry.after is not None:
        event["doc"] = _raw(entry.after, after)
    if entry.operation > 0 and entry.before is not None:
        event["prev"] = _raw(entry.before, _read(entry.before))
    event["bookmark"] = bookmark(entry)
    return Event(event_id, name, entry.table, orjson.dumps(event))


def id_of(parent: str, entry: Entry) -> str:
    """Of where it came from: the same entry of the same batch, however it is read and how often."""
    where = (parent, entry.table, entry.source, entry.epoch, entry.batch_sequence, entry.sequence, entry.row_id)
    return "evt_" + xxh3_128_hexdigest(orjson.dumps([*where, entry.operation], option=orjson.OPT_PASSTHROUGH_SUBCLASS))


def bookmark(entry: Entry) -> str:
    """Grows with every entry of a source: its life, then its sequence."""
    return f"{max(entry.epoch, 0):019d}.{entry.sequence:020d}"


def moment(ms: int) -> str:
    """ISO 8601 with milliseconds and Z."""
    when = _EPOCH + timedelta(milliseconds=min(max(ms, 0), MS_MAX))
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def test_event(uid: str, *, parent: str, now_ms: int) -> dict[str, Any]:
    return {"id": f"evt_{uid}", "type": TEST_TYPE, "ts": moment(now_ms), "data": {"parent": parent, "test": True}}


test_event.__test__ = False  # type: ignore[attr-defined]  # its name is no test's


def body_of(message_id: str, events: bytes, *, is_batch: bool) -> bytes:
    """What is posted: the event, or with a batch the list of them under the message's id."""
    if not is_batch:
        return events[1:-1]
    return b'{"batchId":' + orjson.dumps(message_id) + b',"events":' + events + b"}"


def message_id(uid: str) -> str:
    return f"msg_{uid}"


def group_of(parent_id: int, target: str) -> str:
    return f"evodb.parent-{parent_id}.{target}"


def _told_as_it_is(document: dict[str, Any], entry: Entry, parent: str) -> Event:
    """The text of an event, with an id if it has none."""
    assert entry.after is not None
    given, text = document.get("id"), entry.after.strip().encode()
    if isinstance(given, str) and 0 < len(given) <= ID_CHARS_MAX:
        return Event(given, document["type"], entry.table, text)
    event_id = id_of(parent, entry)
    body = (
        orjson.dumps(document | {"id": event_id}) if "id" in document else b'{"id":"%b",' % event_id.encode() + text[1:]
    )
    return Event(event_id, document["type"], entry.table, body)


def _is_event(document: Any) -> bool:
    if not isinstance(document, dict):
        return False
    name, when = document.get("type"), document.get("ts")
    return isinstance(name, str) and isinstance(when, str) and bool(_TYPE.match(name))


def _read(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _raw(text: str, read: Any) -> Any:
    """As it was written where that is JSON, so that no number loses a digit; else the text."""
    return orjson.Fragment(text) if read is not None or text.strip() == "null" else text
