"""What is wrong with a message of this dialect, as `path: message; path: message`. Off the hot path.

The decoder stops at the first mistake; here every field of a batch is read on its own, so that a child hears of all its
mistakes at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

COMPLAINTS_MAX = 10
BYTES_MAX = 256 * 1024
"""A longer message hears of its first mistake only; all of them could take a hundred times its size."""

CHARS_MAX = 200
"""Of what is said of one value."""

_MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`")
_SHORT = re.compile(r"Expected `str` of length >= (?P<least>\d+)")
_UNKNOWN = re.compile(r"Invalid (?:enum )?value (?P<found>.*)", re.DOTALL)
_KINDS = {
    "int": "a whole number",
    "float": "a fraction",
    "str": "text",
    "array": "a list",
    "object": "an object",
    "bool": "true or false",
    "null": "null",
}
_WANTED = {
    "type": "connect, cdc_batch, heartbeat, flush_request or disconnect",
    "operation": "INSERT, UPDATE or DELETE",
    "reason": "manual, shutdown, buffer_full or time_threshold",
}


def complaint(exc: Exception, *, within: str = "") -> str:
    """A decoder's error in our words; `within` is the path of what the decoder was given."""
    text = str(exc)
    what, found, place = text.rpartition(" - at `$")
    if not found:
        what, place = text, ""
    what, path = what[:CHARS_MAX], _joined(within, place.removesuffix("`").removeprefix("."))
    if missing := _MISSING.fullmatch(what):
        return f"{_joined(path, missing['name'])}: is required"
    return f"{path or 'message'}: {_said(what, path)}"


def complaints(data: str | bytes, kind: type[msgspec.Struct]) -> list[str]:
    """The mistakes of a message that should be a `kind`, at most COMPLAINTS_MAX; none for one that is too long."""
    return [] if len(data) > BYTES_MAX else list(islice(_of_object(data, _form(kind), ""), COMPLAINTS_MAX))


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    required: bool
    json: msgspec.json.Decoder[Any]
    items: Form | None
    """How its items look, when it is a list of objects."""


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of object, read field by field."""

    json: msgspec.json.Decoder[Any]
    fields: tuple[Field, ...]


_list_json = msgspec.json.Decoder(list[Raw])


@cache
def _form(kind: type[msgspec.Struct]) -> Form:
    known = msgspec.structs.fields(kind)
    raw = msgspec.defstruct(kind.__name__, [(row.encode_name, Raw | UnsetType, UNSET) for row in known], kw_only=True)
    return Form(msgspec.json.Decoder(raw), tuple(map(_field, known)))


def _field(row: msgspec.structs.FieldInfo) -> Field:
    items = getattr(row.type, "__args__", ())[:1] if getattr(row.type, "__origin__", None) is list else ()
    form = _form(items[0]) if items and issubclass(items[0], msgspec.Struct) else None
    return Field(row.encode_name, row.required, msgspec.json.Decoder(row.type), form)


def _of_object(data: Any, form: Form, path: str) -> Iterator[str]:
    try:
        found = form.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        yield complaint(exc, within=path)
        return
    for field in form.fields:
        value, place = getattr(found, field.name), _joined(path, field.name)
        if value is UNSET:
            if field.required:
                yield f"{place}: is required"
        elif field.items is not None and bytes(value)[:1] == b"[":
            for index, item in enumerate(_list_json.decode(value)):
                yield from _of_object(item, field.items, f"{place}[{index}]")
        else:
            yield from _of_value(value, field, place)


def _of_value(value: Raw, field: Field, place: str) -> Iterator[str]:
    try:
        field.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        yield complaint(exc, within=place)


def _joined(within: str, path: str) -> str:
    return f"{within}.{path}" if within and path and path[0] != "[" else within + path


def _said(what: str, path: str) -> str:
    if short := _SHORT.fullmatch(what):
        return f"expected at least {short['least']} character{'' if short['least'] == '1' else 's'}"
    if unknown := _UNKNOWN.fullmatch(what):
        wanted = _WANTED.get(path.rpartition(".")[2], "another value")
        return f"expected {wanted}, got {unknown['found']}"
    worded = re.sub(r"`(\w+)`", lambda kind: _KINDS.get(kind[1], kind[1]), what)
    return worded[:1].lower() + worded[1:]
