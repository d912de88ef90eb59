"""POST /query without SQL: which events are wanted, member by member. Pure; every value is a parameter."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from lakehouse.errors import InvalidQuery

LIMIT = 1000
TYPES_MAX = 100
COLUMNS = (
    *("id", "ns", "type", "ts", "do", "method", "namespace", "durationMs", "success", "error", "collection", "docId"),
    *("doc", "prev", "bookmark", "reason", "connectionCount", "code", "event", "properties", "traits", "userId"),
    *("anonymousId", "sessionId", "data", "source", "webhook", "payload"),
)


class DateRange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    start: datetime | UnsetType = UNSET
    end: datetime | UnsetType = UNSET


class StructuredBody(msgspec.Struct, rename="camel", frozen=True, kw_only=True, forbid_unknown_fields=True):
    date_range: DateRange | UnsetType = UNSET
    do_id: str | UnsetType = UNSET
    do_class: str | UnsetType = UNSET
    event_types: list[str] | UnsetType = UNSET
    collection: str | UnsetType = UNSET
    colo: str | UnsetType = UNSET
    namespace: str | UnsetType = UNSET
    limit: int | UnsetType = UNSET


WANTED = f"wanted `sql`, or some of {', '.join(StructuredBody.__struct_encode_fields__)}"
_json = msgspec.json.Decoder(StructuredBody)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def is_structured(data: bytes) -> bool:
    """Whether this is an object that has no SQL among its members. Raises InvalidQuery for one that has none at all."""
    try:
        members = _members.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    if not members:
        raise InvalidQuery(f"the body asks for nothing; {WANTED}")
    return "sql" not in members


def read(data: bytes) -> tuple[StructuredBody, str, dict[str, Any]]:
    """The body, and the query it stands for. Raises InvalidQuery."""
    try:
        body = _json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        hint = f"; {WANTED}" if "unknown field" in str(exc) else ""
        raise InvalidQuery(f"the body cannot be used: {str(exc)[:500]}{hint}") from None
    conditions: list[str] = []
    values: dict[str, Any] = {}

    def where(condition: str, name: str, value: Any) -> None:
        if value is not UNSET:
            conditions.append(condition)
            values[name] = value

    if body.date_range is not UNSET:
        where("_ts >= CAST($start AS TIMESTAMPTZ)", "start", _moment("start", body.date_range.start))
        where("_ts <= CAST($end AS TIMESTAMPTZ)", "end", _moment("end", body.date_range.end))
    where("json_extract_string(\"do\", '$.id') = $do_id", "do_id", body.do_id)
    where("json_extract_string(\"do\", '$.class') = $do_class", "do_class", body.do_class)
    where("json_extract_string(\"do\", '$.colo') = $colo", "colo", body.colo)
    where("collection = $collection", "collection", body.collection)
    if body.event_types is not UNSET:
        if not 1 <= len(body.event_types) <= TYPES_MAX:
            raise InvalidQuery(f"eventTypes: has {len(body.event_types)}, wanted 1 to {TYPES_MAX}")
        asked = [_of_type(f"type_{index}", said) for index, said in enumerate(body.event_types)]
        conditions.append(f"({' OR '.join(condition for condition, _ in asked)})")
        values |= {name: value for _, found in asked for name, value in found.items()}
    columns = ", ".join(f'"{name}"' for name in COLUMNS)
    found = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return body, f"SELECT {columns} FROM events{found} ORDER BY _ts DESC, _row_id DESC", values  # noqa: S608 - bound


def _of_type(name: str, said: str) -> tuple[str, dict[str, str]]:
    """All of a type, or how it begins and `*`, which no type has in it."""
    if said.endswith("*"):
        return f"starts_with(type, ${name})", {name: said[:-1]}
    return f"type = ${name}", {name: said}


def _moment(name: str, moment: datetime | UnsetType) -> str | UnsetType:
    if moment is UNSET:
        return UNSET
    if moment.tzinfo is None:
        raise InvalidQuery(f"dateRange.{name}: is {moment.isoformat()}, wanted a time with its zone")
    return moment.isoformat()
