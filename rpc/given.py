"""What a caller may hand over as an entry: a WalEntry, or a mapping in the package's or the README's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET

from rpc.entries import RawEntry, dump_value, from_wal
from rpc.errors import ProtocolError
from rpc.messages import WalEntry, WalOperation

EntryLike: TypeAlias = WalEntry | RawEntry | Mapping[str, Any]

_README_WORDS = {"op": "operation", "data": None, "lsn": "sequence", "rowId": "row_id"}
_SAME = (("op", "operation"), ("rowId", "row_id"))
_KNOWN = {"operation", "table", "row_id", "before", "after", "metadata", "sequence", "timestamp", "data"}


def raw_entry(given: EntryLike, *, now_ms: int) -> RawEntry:
    """The entry as bytes. Its sequence is the outbox's to give; a missing timestamp is now.

    Raises ProtocolError saying which field is missing, unknown or of the wrong kind.
    """
    if isinstance(given, RawEntry):
        return given
    if isinstance(given, WalEntry):
        return _of_struct(given)
    if not isinstance(given, Mapping):
        raise ProtocolError(f"entry is {given!r}, wanted a mapping or a WalEntry")
    return from_wal(_wal_entry(given, now_ms))


def lsn_of(given: EntryLike) -> int | None:
    """The place of the change in the log it comes from, if the README's entry says it."""
    return given.get("lsn") if isinstance(given, Mapping) else None


def _wal_entry(given: Mapping[str, Any], now_ms: int) -> WalEntry:
    fields = {_README_WORDS.get(name) or name: value for name, value in given.items()}
    for one, other in _SAME:
        if one in given and other in given:
            raise ProtocolError(f"entry has {one} and {other}, which mean the same; leave one of them out")
    if unknown := sorted(set(fields) - _KNOWN):
        raise ProtocolError(f"entry has unknown field {unknown[0]!r}, known are {', '.join(sorted(_KNOWN))}")
    for name in ("operation", "table"):
        if not isinstance(fields.get(name), str):
            raise ProtocolError(f"entry has {name} {fields.get(name)!r}, wanted text")
    if fields["operation"] not in WalOperation.__members__:
        raise ProtocolError(f"entry has operation {fields['operation']!r}, wanted INSERT, UPDATE or DELETE")
    operation = WalOperation(fields["operation"])
    data = fields.pop("data", UNSET)
    if data is not UNSET:
        place = "before" if operation is WalOperation.DELETE else "after"
        if place in fields:
            raise ProtocolError(f"entry has data and {place}, the same in {operation}; leave one of them out")
        fields[place] = data
    return WalEntry(
        sequence=0,
        timestamp=_moment(fields.get("timestamp", now_ms)),
        operation=operation,
        table=fields["table"],
        row_id=_row_id(fields.get("row_id", UNSET), data),
        before=fields.get("before", UNSET),
        after=fields.get("after", UNSET),
        metadata=_metadata(fields.get("metadata", UNSET)),
    )


def _of_struct(entry: WalEntry) -> RawEntry:
    """A struct holds whatever it was made with; most of that is looked at only when it does not work."""
    _moment(entry.timestamp)
    _metadata(entry.metadata)
    try:
        return from_wal(entry)
    except (AttributeError, KeyError, TypeError):
        for name, value in (("table", entry.table), ("row_id", entry.row_id)):
            if not isinstance(value, str):
                raise ProtocolError(f"entry has {name} {value!r}, wanted text") from None
        wanted = "INSERT, UPDATE or DELETE"
        raise ProtocolError(f"entry has operation {entry.operation!r}, wanted {wanted}") from None


def _moment(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ProtocolError(f"entry has timestamp {value!r}, wanted milliseconds since 1970")
    return value


def _row_id(value: Any, data: Any) -> str:
    """The given row id, or the `id` of the row as text."""
    if value is UNSET and isinstance(data, Mapping):
        value = data.get("id", "")
    if value is UNSET:
        return ""
    return value if isinstance(value, str) else dump_value(value).decode()


def _metadata(value: Any) -> dict[str, Any] | msgspec.UnsetType:
    if value is UNSET or isinstance(value, dict):
        return value
    raise ProtocolError(f"entry has metadata {value!r}, wanted an object")
