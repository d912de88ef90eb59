"""What of the rows of a table is in `_rest`, key by key: for the inbox of drift. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lakehouse.flush import exact, values
from lakehouse.flush.rules import name_of

FIELDS_MAX = 200
"""Of one table; a child that writes values as keys must not fill the inbox."""
NAME_CHARS_MAX = 255
EXAMPLE_CHARS_MAX = 200
SAMPLE_VALUES = 100
"""So many are looked at for the type of a field."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A key of some rows that is in `_rest`. `type` is one that may be declared, or empty."""

    field: str
    is_new: bool
    type: str
    example: str
    values: int


@dataclass(slots=True)
class _Field:
    count: int = 0
    sample: list[bytes] = field(default_factory=list)


def seen(rest: Any, columns: Collection[str]) -> list[Seen]:
    """The keys of these JSON texts (null where there is none). `columns` are those of the table."""
    found: dict[str, _Field] = {}
    for chunk in rest.chunks:
        for text in chunk.filter(chunk.is_valid()).to_pylist() if chunk.null_count < len(chunk) else ():
            for key, value in _members(text).items():
                if bytes(value) != b"null" and (key in found or len(found) < FIELDS_MAX):
                    one = found.setdefault(key, _Field())
                    one.count += 1
                    if len(one.sample) < SAMPLE_VALUES:
                        one.sample.append(bytes(value))
    return [_told(key, one, is_new=key not in columns) for key, one in found.items()]


def _members(text: str) -> exact.Members:
    try:
        return exact.split(text.encode()) or {}
    except exact.NotJson:
        return {}


def _told(key: str, one: _Field, *, is_new: bool) -> Seen:
    return Seen(
        storable(key)[:NAME_CHARS_MAX],
        is_new,
        _type_of(one.sample),
        storable(one.sample[0].decode())[:EXAMPLE_CHARS_MAX],
        one.count,
    )


def _type_of(sample: list[bytes]) -> str:
    texts = pa.array(sample, pa.binary())
    if values.families(texts).nested:
        return "json"
    array = values.fit(texts).array
    return "" if array is None else name_of(array.type)


def storable(text: str) -> str:
    """As every database takes it."""
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")
