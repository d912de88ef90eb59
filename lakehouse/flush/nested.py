"""Objects and arrays as structs and lists, where a setting wants them so; JSON text is what they are else.

All values of a column are looked at before one is stored. At each place the majority says what is there: object, array,
text, number or boolean; objects have the fields that any of them has. A value that is not so anywhere goes to `_rest`,
whole. As with columns a field that is missing and one that is null are the same, and no number is bent. A column that
is there gets fields and never loses one. 9 us a value of three fields.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import msgspec
import pyarrow as pa

from lakehouse.declared import is_field
from lakehouse.flush import moments, scalars
from lakehouse.flush.names import in_files
from rpc.names import is_unicode

DEPTH_MAX = 8
FIELDS_MAX = 200
"""Of one column, on all levels together."""
TABLE_FIELDS_MAX = 2000
"""Of all columns of a table; with 48 000 of them a flush of one row takes 20 s and 1.2 GB."""

PLACES_MAX = 2 * 1024 * 1024
"""Of one column in a flush: each object in a list has one for each field its column has. `{}` is three bytes long; of
100 000 of them in a column of 200 fields came 2 GB."""

_LONG, _DOUBLE, _TEXT, _BOOL = pa.int64(), pa.float64(), pa.string(), pa.bool_()


_WRITABLE: set[Any] = {
    *(_LONG, _DOUBLE, _TEXT, _BOOL, pa.int32(), pa.float32(), pa.binary()),
    *(moments.DATE, moments.TIMESTAMP, pa.timestamp("us"), pa.time64("us")),
}
"""Others come with tables that others made: maps, UUIDs, bytes of a fixed length."""


class Misfit(Exception):
    """This value is not as its column."""


@dataclass(slots=True)
class Shape:
    """What is at one place of all values, by how often."""

    kinds: Counter[type] = field(default_factory=Counter)
    fields: dict[str, Shape] = field(default_factory=dict)
    item: Shape | None = None

    def look(self, value: Any, depth: int = 0) -> None:
        if value is None or depth > DEPTH_MAX:
            return
        self.kinds[type(value)] += 1
        if isinstance(value, dict):
            for name, inner in value.items():
                self.fields.setdefault(name, Shape()).look(inner, depth + 1)
        elif isinstance(value, list):
            self.item = self.item or Shape()
            for inner in value:
                self.item.look(inner, depth + 1)

    @property
    def kind(self) -> type | None:
        """What is there most often; an integer may stand where a double does."""
        counted = Counter(self.kinds)
        if counted[float]:
            counted[float] += counted.pop(int, 0)
        return max(counted, key=counted.__getitem__) if self.kinds else None


@dataclass(slots=True)
class Places:
    """What lies below lists at one place of a type: how many fields an element has, and where more lists are."""

    fields: int = 0
    element: Places | None = None
    inner: dict[str, Places] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: Any) -> Places | None:
        """None where no list of objects is."""
        if pa.types.is_list(kind):
            found = cls(fields_in(kind.value_type), cls.of(kind.value_type))
            return found if found.fields else None
        if not pa.types.is_struct(kind):
            return None
        below = {one.name: cls.of(one.type) for one in kind}
        inner = {name: one for name, one in below.items() if one is not None}
        return cls(inner=inner) if inner else None

    def count(self, value: Any) -> int:
        """How many this value takes."""
        if isinstance(value, list):
            more = sum(map(self.element.count, value)) if self.element is not None else 0
            return len(value) * self.fields + more
        if not isinstance(value, dict):
            return 0
        return sum(one.count(value[name]) for name, one in self.inner.items() if name in value)


@dataclass(slots=True)
class Budget:
    """How many fields a column may still get."""

    left: int

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


def read(texts: Any, known: Any | None, *, may_grow: bool, room: int = TABLE_FIELDS_MAX) -> Any | None:
    """The values as an array of the known type, which may get fields, or of the type they suggest. None: it has none.
    `room` is how many fields the table may still get.

    In come JSON texts; the array is null where a text is, and where its value does not fit.
    """
    values = _loaded(texts)
    kind = known
    if may_grow or known is None:
        shape = Shape()
        for value in values:
            if value is not _UNREADABLE:
                shape.look(value)
        kind = type_of(shape, known, Budget(min(room, FIELDS_MAX - fields_in(known))))
    if kind is None or not is_nested(kind):
        return None
    return pa.array(_within(values, kind), kind)


def _within(values: list[Any], kind: Any) -> Iterator[Any]:
    """The values as they fit, as long as there are places for them."""
    places, left = Places.of(kind), PLACES_MAX
    for value in values:
        if places is not None and (wanted := places.count(value)):
            if wanted > left:
                yield None
                continue
            left -= wanted
        yield _fitted(value, kind)


def is_nested(kind: Any) -> bool:
    return pa.types.is_struct(kind) or pa.types.is_list(kind)


def fields_in(kind: Any | None) -> int:
    """On all levels."""
    if kind is None or not is_nested(kind):
        return 0
    if pa.types.is_list(kind):
        return fields_in(kind.value_type)
    return sum(1 + fields_in(one.type) for one in kind)


def is_writable(kind: Any) -> bool:
    """Whether each place in a column of this type is one we may leave null and can write."""
    if pa.types.is_struct(kind):
        return all(one.nullable and is_writable(one.type) for one in kind)
    if pa.types.is_list(kind):
        return bool(kind.value_field.nullable) and is_writable(kind.value_type)
    return kind in _WRITABLE or pa.types.is_decimal128(kind)


def type_of(shape: Shape | None, known: Any | None, budget: Budget) -> Any | None:
    """The Arrow type of a place, or None where nothing says what it could be."""
    if known is not None and not is_nested(known):
        return known
    is_object = pa.types.is_struct(known) if known is not None else shape is not None and shape.kind is dict
    if is_object:
        fields = _fields(shape, known, budget)
        return pa.struct(fields) if fields else None
    if known is not None or (shape is not None and shape.kind is list):
        item = type_of(shape and shape.item, None if known is None else known.value_type, budget)
        return None if item is None else pa.list_(pa.field("element", item))
    return _SCALARS.get(shape.kind) if shape is not None and shape.kind is not None else None


_SCALARS: dict[type, Any] = {bool: _BOOL, int: _LONG, float: _DOUBLE, str: _TEXT}


def _fields(shape: Shape | None, known: Any | None, budget: Budget) -> list[Any]:
    seen = {} if shape is None else shape.fields
    made = {} if known is None else {one.name: type_of(seen.get(one.name), one.type, budget) for one in known}
    taken = {key for name in made for key in (name.casefold(), in_files(name))}
    for name, inner in seen.items():
        keys = {name.casefold(), in_files(name)}
        if taken.isdisjoint(keys) and is_field(name) and budget.take():
            kind = type_of(inner, None, budget)
            if kind is not None:
                made[name] = kind
                taken |= keys
    return [pa.field(name, kind) for name, kind in made.items()]


def _loaded(texts: Any) -> list[Any]:
    return [None if text is None else _load(text) for text in texts.to_pylist()]


def _load(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(text, parse_float=scalars.finite)
    except (ValueError, RecursionError):
        return _UNREADABLE


_UNREADABLE = object()
"""Fits nowhere: a number beyond what a double or Python reads. What is no JSON at all was found before."""


def _fitted(value: Any, kind: Any) -> Any:
    try:
        return _convert(value, kind)
    except Misfit:
        return None


def _convert(value: Any, kind: Any) -> Any:
    """Raises Misfit."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return _struct(value, kind)
    if pa.types.is_list(kind):
        if not isinstance(value, list):
            raise Misfit
        return [_convert(inner, kind.value_type) for inner in value]
    found = _scalar(value, kind)
    if found is None:
        raise Misfit
    return found


def _struct(value: Any, kind: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Misfit
    fields = {one.name: one.type for one in kind}
    if any(inner is not None for name, inner in value.items() if name not in fields):
        raise Misfit
    return {name: _convert(value.get(name), one) for name, one in fields.items()}


def _scalar(value: Any, kind: Any) -> bool | int | float | str | date | datetime | None:
    if isinstance(value, bool) or kind == _BOOL:
        return value if isinstance(value, bool) and kind == _BOOL else None
    if isinstance(value, int):
        return _integer(value, kind)
    if isinstance(value, float):
        return value if kind == _DOUBLE else None
    if isinstance(value, str) and is_unicode(value):
        if kind in (moments.TIMESTAMP, moments.DATE):
            return moments.parse_one(value, kind)
        return value if kind == _TEXT else None
    return None


def _integer(value: int, kind: Any) -> int | float | None:
    if kind == _DOUBLE:
        return float(value) if abs(value) <= scalars.DOUBLE_EXACT_MAX else None
    if kind not in (_LONG, pa.int32()):
        return None
    limit = 1 << (kind.bit_width - 1)
    return value if -limit <= value < limit else None
