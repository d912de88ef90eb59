"""One event as it came, checked, and the row it becomes. Pure.

The flat shape is the canonical one: `type`, `ts`, and what belongs to the type (docs/events.md). A record of the newer
shape, `{id, ns, ts, type: "cdc", event: "<noun>.created", data, meta}`, becomes a flat one here. What stands in an
event and is known to nobody is kept as it is.

4 µs an event of 10 members: no value is decoded but those that are checked.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

DAY_MS = 24 * 3600 * 1000
PAST_MS_MAX, FUTURE_MS_MAX = 7 * DAY_MS, 3600 * 1000
EVENT_BYTES_MAX = 10_240
ID_CHARS_MAX = 128
TYPE = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
EPOCH, MS = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
MOMENT_CHARS_MAX = 40
SHOWN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z\Z")
"""What Python reads may be another: weeks, or any letter in the place of the T."""
RECORD = re.compile(r"(?P<noun>[A-Za-z0-9._-]{1,100})\.(?P<verb>created|updated|deleted)\Z")
VERBS = {"created": "collection.insert", "updated": "collection.update", "deleted": "collection.delete"}


class _Kind(msgspec.Struct):
    type: str


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_kind = msgspec.json.Decoder(_Kind)
_text = msgspec.json.Decoder(str)
_encode = msgspec.json.encode
UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)

Members = dict[str, Any]
"""Values are the bytes they came as (msgspec.Raw), or what replaces them."""


class BadEvent(ValueError):
    """`.field: what was found, what was wanted`."""


class Event(NamedTuple):
    type: str
    moment_ms: int
    id: str | None
    """Its own; one that has none gets it from its batch."""
    members: Members


def read(raw: bytes | msgspec.Raw, *, now_ms: int, any_age: bool) -> Event:
    """Raises BadEvent."""
    try:
        members: Members = _members.decode(raw)
    except UNREADABLE:
        raise BadEvent(f": is {_seen(raw)}, wanted an object") from None
    kind = _required(members, "type")
    if TYPE.match(kind) is None:
        raise BadEvent(f".type: is {kind[:40]!r}, wanted 1 to 128 letters, digits, '.', '_' or '-'")
    moment_ms, moment = _moment(_required(members, "ts"), now_ms=now_ms, any_age=any_age)
    own_id = _id(members)
    if kind == "cdc" and "event" in members:
        kind, members = _flat(members)
    if "do" in members and bytes(members["do"])[:1] != b"{":
        raise BadEvent(".do: wanted an object {id, name?, class?, colo?, worker?}")
    members["type"], members["ts"] = kind, moment
    return Event(kind, moment_ms, own_id, members)


def row(event: Event, *, event_id: str, namespace: str) -> bytes:
    """The document of its row: id and namespace first, then the event."""
    members = event.members
    members.pop("ns", None)
    own_id = members.pop("id", None)
    text = _encode({"id": event_id, "ns": namespace, **members})
    if own_id is not None:
        members["id"] = own_id
    return text


def is_one(body: bytes) -> bool:
    """Whether it can be read as one: a child with a socket may have written anything into the table of events, too."""
    try:
        _kind.decode(body)
        body.decode()
    except UNREADABLE:
        return False
    return True


def type_of(body: bytes) -> str:
    """Of one that is_one."""
    return _kind.decode(body).type


def line(body: bytes) -> bytes:
    """The same in one line; within a string of JSON there is no line break."""
    return msgspec.json.format(body, indent=-1) if b"\n" in body or b"\r" in body else body


def document(event: Event) -> bytes:
    """What a schema is asked about: the flat event as it came."""
    return _encode({name: value for name, value in event.members.items() if name != "ns"})


def is_too_large(raw: bytes | msgspec.Raw) -> bool:
    """White space does not count, as it does not where JSON.stringify made the event."""
    if len(raw) <= EVENT_BYTES_MAX:
        return False
    try:
        return len(msgspec.json.format(bytes(raw), indent=-1)) > EVENT_BYTES_MAX
    except UNREADABLE:
        return True


def shown(moment_ms: int) -> str:
    """A moment as events have it."""
    return (EPOCH + moment_ms * MS).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parsed_ms(text: str) -> int:
    """Raises ValueError for what is no time with its zone."""
    if len(text) > MOMENT_CHARS_MAX:
        raise ValueError(text[:MOMENT_CHARS_MAX])
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(text)
    return (found - EPOCH) // MS


def _required(members: Members, field: str) -> str:
    if field not in members:
        raise BadEvent(f".{field}: is required")
    return _string(members[field], field)


def _string(raw: Any, field: str) -> str:
    try:
        return _text.decode(raw)
    except UNREADABLE:
        raise BadEvent(f".{field}: is {_seen(raw)}, wanted a string") from None


def _seen(raw: bytes | msgspec.Raw) -> str:
    return bytes(raw)[:40].decode("utf-8", "replace")


def _moment(text: str, *, now_ms: int, any_age: bool) -> tuple[int, str]:
    try:
        moment_ms = parsed_ms(text)
    except (ValueError, OverflowError):
        raise BadEvent(f".ts: is {text[:40]!r}, wanted a time such as 2026-01-31T12:00:00.000Z") from None
    oldest_ms = 0 if any_age else now_ms - PAST_MS_MAX
    if moment_ms < oldest_ms:
        raise BadEvent(f".ts: is {text}, wanted {shown(oldest_ms)} or later; a key with the scope admin may backfill")
    if moment_ms > now_ms + FUTURE_MS_MAX:
        raise BadEvent(f".ts: is {text}, wanted {shown(now_ms + FUTURE_MS_MAX)} or earlier")
    return moment_ms, text if SHOWN.match(text) else shown(moment_ms)


def _id(members: Members) -> str | None:
    if "id" not in members or bytes(members["id"]) == b"null":
        return None
    found = _string(members["id"], "id")
    if not 0 < len(found) <= ID_CHARS_MAX or not found.isprintable():
        raise BadEvent(f".id: is {found[:40]!r}, wanted 1 to {ID_CHARS_MAX} printable characters")
    return found


def _flat(record: Members) -> tuple[str, Members]:
    """A record of the newer shape as a flat event. Raises BadEvent."""
    name = _required(record, "event")
    match = RECORD.match(name)
    if match is None:
        raise BadEvent(f".event: is {name[:40]!r}, wanted <noun>.created, <noun>.updated or <noun>.deleted")
    data, meta = _object(record, "data"), _object(record, "meta", required=False)
    members: Members = {
        "collection": data.pop("type") if "type" in data else match["noun"],
        "docId": _required(data, "id"),
    }
    data.pop("id")
    if match["verb"] != "deleted":
        members["doc"] = data
    members |= {name: meta.pop(name) for name in ("prev", "bookmark") if name in meta}
    members |= {name: record[name] for name in ("url", "source", "actor") if name in record}
    members |= {"meta": meta} if meta else {}
    if "do" in record:
        members["do"] = record["do"]
    elif "ns" in record:
        members["do"] = msgspec.Raw(_encode({"id": record["ns"]}))
    return VERBS[match["verb"]], members


def _object(record: Members, field: str, *, required: bool = True) -> Members:
    if field not in record and not required:
        return {}
    try:
        found: Members = _members.decode(record.get(field, msgspec.Raw(b"null")))
    except UNREADABLE:
        raise BadEvent(f".{field}: wanted an object") from None
    return found
