"""The documents of the lake as the values of a row of SQLite, and what of them can be none.

Documents are JSON, as deep as anybody sent them: an object or list in a column is its text, as it was.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, NamedTuple

from rpc.names import is_unicode

INTEGER_MAX = 2**63 - 1
DIGITS_MAX = 4000
"""Of a number that Python reads as one; a longer one is the text it was."""
INFINITY = "1e999"
"""As capture writes it; JSON has no word for it."""
NUL = "a name with NUL in it"
NO_UNICODE = "half a character"
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]|[^\s"\[\]{},:]+', re.DOTALL)

Value = int | float | str | bytes | None


class Document(NamedTuple):
    """A row of the lake: its id, its JSON, the columns whose text is bytes in base64, and JSON of more columns."""

    row_id: str
    text: str
    blobs: str | None = None
    rest: str | None = None


class Beside(NamedTuple):
    """What can be no value of a column, as JSON, and why."""

    json: str
    reason: str


class Row(NamedTuple):
    values: dict[str, Value]
    beside: dict[str, Beside]


def row_of(document: Document) -> Row:
    """The columns of a row with their values as SQLite has them."""
    found = _members(document.text)
    if document.rest:
        found |= _members(document.rest)
    named = json.loads(document.blobs) if document.blobs else []
    blobs = set(named) if isinstance(named, list) else set()
    row = Row({}, {})
    for name, value in found.items():
        if reason := _complaint(name, value):
            row.beside[name] = Beside(_json(value), reason)
        else:
            row.values[name] = _blob(value) if name in blobs else _value(value)
    return row


def as_json(value: Value) -> str:
    """A value that finds no column after all. Bytes are an object that says so."""
    if isinstance(value, bytes):
        return json.dumps({"$blob": base64.b64encode(value).decode()})
    return _json(value)


class _Nested(str):
    """An object or a list, as the text it was."""

    __slots__ = ()


def _members(text: str) -> dict[str, Any]:
    """What an object has, or a value alone."""
    try:
        found = json.loads(text, parse_int=_integer)
    except RecursionError:
        return _spans(text) if text.lstrip().startswith("{") else {"value": _Nested(text)}
    if not isinstance(found, dict):
        return {"value": _Nested(text) if isinstance(found, list) else found}
    return _spans(text) if any(isinstance(value, dict | list) for value in found.values()) else found


def _spans(text: str) -> dict[str, Any]:
    """The same, without stepping into what is nested: Python goes a thousand levels deep and no further."""
    found: dict[str, Any] = {}
    depth, begin, name = 0, 0, None
    for token in _TOKEN.finditer(text):
        piece = token[0]
        if piece in ("{", "["):
            depth += 1
            begin = token.start() if depth == 2 else begin
        elif piece in ("}", "]"):
            depth -= 1
            if depth == 1 and name is not None:
                found[name], name = _Nested(text[begin : token.end()]), None
        elif depth == 1 and piece not in (",", ":"):
            value = json.loads(piece, parse_int=_integer)
            if name is None:
                name = value
            else:
                found[name], name = value, None
    return found


def _complaint(name: str, value: Any) -> str:
    if "\0" in name:
        return NUL
    is_whole = is_unicode(name) and (not isinstance(value, str) or is_unicode(value))
    return "" if is_whole else NO_UNICODE


def _json(value: Any) -> str:
    if isinstance(value, _Nested):
        return str(value)
    return json.dumps(value).replace("Infinity", INFINITY) if isinstance(value, float) else json.dumps(value)


def _blob(value: Any) -> Value:
    if not isinstance(value, str):
        return _value(value)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return _value(value)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= DIGITS_MAX else digits


def _value(value: Any) -> Value:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
        return str(value)
    assert value is None or isinstance(value, int | float)
    return value
