"""JSON documents as typed columns by a class made for them: the fast path.

A `Plan` says for each key what its values are expected to be; msgspec builds a class of it and reads lines of
documents into objects, a chunk at a time, each key of which goes to Arrow as a list. 19 keys cost 1.3 us a document
where pyarrow.json takes 1.8 us of one core (and rounds integers and takes nested values apart), the exact path 6.8 us.

Nothing is guessed: a value that is not as planned, a key nobody planned or a text that is not JSON raises
`Surprise`, and the caller plans again. Objects, arrays and mixed values are planned as JSON text, for `values`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.flush.scalars import DOUBLE_EXACT_MAX
from lakehouse.flush.values import as_texts
from lakehouse.flush.whole import whole

CHUNK_DOCUMENTS, CHUNK_BYTES = 2048, 4 * 2**20
"""1000 to 4000 documents stay in the cache; 100 000 take 60 % longer. Large ones are fewer, for the sake of memory."""

NULL, ABSENT = msgspec.Raw(b"null"), msgspec.Raw(b"")


class Kind(Enum):
    """What the values of a key are expected to be."""

    BOOL = "bool"
    INTEGER = "integer"
    DOUBLE = "double"
    TEXT = "text"
    JSON = "json"
    """Anything; kept as JSON text."""
    REST = "rest"
    """Anything, but no column."""


Plan = tuple[tuple[str, Kind], ...]

_TYPES: dict[Kind, tuple[Any, Any]] = {
    Kind.BOOL: (bool | None, None),
    Kind.INTEGER: (int | None, None),
    Kind.DOUBLE: (float | None, None),
    Kind.TEXT: (str | None, None),
    Kind.JSON: (msgspec.Raw, NULL),
    Kind.REST: (msgspec.Raw, ABSENT),
}
_ARROW: dict[Kind, Any] = {
    Kind.BOOL: pa.bool_(),
    Kind.INTEGER: pa.int64(),
    Kind.DOUBLE: pa.float64(),
    Kind.TEXT: pa.string(),
}
_PACKED = {Kind.INTEGER: "q", Kind.DOUBLE: "d"}


class Surprise(Exception):
    """Documents from `start` on are not as planned; `key` names the member when it is known."""

    def __init__(self, start: int, key: str | None = None) -> None:
        super().__init__(start, key)
        self.start, self.key = start, key


class Read(NamedTuple):
    """An array a key, typed or (Kind.JSON) JSON texts; and the members for `_rest` by row."""

    arrays: dict[str, Any]
    rest: dict[int, list[tuple[str, bytes]]]


def read(documents: Any, plan: Plan) -> Read:
    """The members of these objects, as planned. Every text must begin with `{` and end with `}`.

    That, and a newline between them, is why texts cannot run into one another: whatever is cut off by a newline after a
    `}` cannot go on with a `{`. So there are as many values as texts only if each text is exactly one.
    """
    decoder, getters = _reader(plan)
    pieces: list[list[Any]] = [[] for _ in plan]
    rest: dict[int, list[tuple[str, bytes]]] = {}
    for start, lines, count in chunks(documents):
        try:
            objects = decoder.decode_lines(lines)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Surprise(start) from None
        if len(objects) != count:
            raise Surprise(start)
        for (key, kind), values_of, arrays in zip(plan, getters, pieces, strict=True):
            if kind is Kind.REST:
                _set_aside(key, values_of(objects), start, rest)
                continue
            array = _array(values_of(objects), kind)
            if array is None:
                raise Surprise(start, key)
            arrays.append(array)
    return Read({key: _joined(arrays) for (key, _), arrays in zip(plan, pieces, strict=True) if arrays}, rest)


def _joined(arrays: list[Any]) -> Any:
    """In one piece, but for long texts, which would be in memory twice meanwhile."""
    joined = pa.chunked_array(arrays)
    return joined if joined.type == pa.string() and joined.nbytes > CHUNK_BYTES else whole(joined)


def chunks(documents: Any) -> Iterator[tuple[int, memoryview, int]]:
    """The texts as lines, a chunk at a time: its first row, its bytes, how many texts it has."""
    count = len(documents)
    step = max(1, min(CHUNK_DOCUMENTS, count * CHUNK_BYTES // max(1, documents.nbytes)))
    for start in range(0, count, step):
        part = documents.slice(start, step)
        group = pa.ListArray.from_arrays(pa.array([0, len(part)], pa.int32()), part)
        lines: Any = pc.binary_join(group, "\n")
        yield start, memoryview(lines[0].as_buffer()), len(part)


def _array(values: list[Any], kind: Kind) -> Any | None:
    """The values in Arrow, or None when one of them would not be exact."""
    if kind is Kind.JSON:
        return as_texts(values)
    if kind in _PACKED:
        try:
            # 6 ns a number against 23 ns by pa.array, but nothing may be missing.
            packed = struct.pack(f"{len(values)}{_PACKED[kind]}", *values)
        except struct.error:
            pass
        else:
            array = pa.Array.from_buffers(_ARROW[kind], len(values), [None, pa.py_buffer(packed)])
            return array if kind is Kind.INTEGER or _is_exact(array) else None
    try:
        array = pa.array(values, _ARROW[kind])
    except OverflowError:  # an integer beyond int64
        return None
    return array if kind is not Kind.DOUBLE or _is_exact(array) else None


def _is_exact(doubles: Any) -> bool:
    """Whether no integer can have lost its last digits on the way."""
    bounds: Any = pc.min_max(doubles).as_py()
    return bounds["min"] is None or (bounds["min"] > -DOUBLE_EXACT_MAX and bounds["max"] < DOUBLE_EXACT_MAX)


def _set_aside(key: str, values: list[Any], start: int, rest: dict[int, list[tuple[str, bytes]]]) -> None:
    for row, value in enumerate(values, start):
        if value is not ABSENT:
            rest.setdefault(row, []).append((key, bytes(value)))


@lru_cache(maxsize=256)
def _reader(plan: Plan) -> tuple[Any, list[Callable[[list[Any]], list[Any]]]]:
    """The decoder of a plan, and for each key what takes its values out of the objects."""
    names = [f"field_{number}" for number in range(len(plan))]
    fields = [(name, *_TYPES[kind]) for name, (_, kind) in zip(names, plan, strict=True)]
    rename = {name: key for name, (key, _) in zip(names, plan, strict=True)}
    made = msgspec.defstruct("Document", fields, rename=rename, gc=False, forbid_unknown_fields=True)
    # The interpreter reads a named attribute in 12 ns, attrgetter in 24; only a number goes into the source.
    getters = [eval(f"lambda objects: [one.{name} for one in objects]") for name in names]  # noqa: S307
    return msgspec.json.Decoder(made), getters
