"""Documents that come as Arrow already: columns of one table, shredded by the children who sent them.

No text is read where the type of a column is the table's and the same in all batches, which is the usual case. Where
it is not, values become JSON texts and find their place as all others do (`values`); what fits nowhere is kept in the
rest. Rows of the same table that came as JSON get the types found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.flush import documents, exact, moments, values, widening
from lakehouse.flush.documents import Documents, Rest, Wanted
from lakehouse.flush.leftovers import Leftovers
from lakehouse.flush.rules import USUAL, Rules
from lakehouse.flush.whole import whole
from rpc.arrow_stream import REST
from rpc.entries import dump_value

PLAIN = frozenset({pa.bool_(), pa.int64()})
"""Types whose values Arrow spells as JSON does."""


def read(streams: Sequence[Any], numbers: Any, texts: Any, known: Any | None, rules: Rules = USUAL) -> Documents:
    """The columns of all rows of a table: of those with a number from the streams, of the others from their texts.

    `numbers` counts through the rows of all streams of the table, null for a row without a typed document.
    """
    wanted = Wanted.of(known, rules)
    types, left = wanted.types, Leftovers()
    came = _Streams(_joined(streams), numbers)
    typed = _columns(came, wanted, left)
    unreadable = _take_rest(came.column(REST), left)
    others = pc.if_else(numbers.is_valid(), pa.scalar(None, pa.string()), texts)
    unreadable |= documents.check(pc.if_else(numbers.is_valid(), texts, pa.scalar(None, pa.string())))
    fields = [(name, typed[name].type) for name in typed if name not in types]
    schema = rules.schema(known)
    seen = pa.schema([*(schema or []), *fields], None if schema is None else schema.metadata)
    found = documents.read(others, seen, rules)
    columns = {key: widening.either(typed[key], found.columns[key]) for key in typed.keys() & found.columns.keys()}
    order = dict.fromkeys([*typed, *found.columns])
    return Documents(
        {key: columns.get(key, typed.get(key, found.columns.get(key))) for key in order},
        pc.coalesce(left.texts(len(numbers)), found.rest),
        found.unreadable | unreadable,
    )


def _joined(streams: Sequence[Any]) -> Sequence[Any]:
    """One stream of all those that have the same columns, which is the usual case."""
    first = streams[0].schema
    return [pa.concat_tables(streams)] if all(stream.schema.equals(first) for stream in streams) else streams


class _Streams:
    """The documents of a table, and which row has which. No key costs more than the streams that have a value of it."""

    def __init__(self, streams: Sequence[Any], numbers: Any) -> None:
        self._streams = streams
        self._starts = list(accumulate((stream.num_rows for stream in streams), initial=0))
        self._numbers = numbers
        self._rows = _rows(numbers, self._starts[-1])
        self._having: dict[str, list[int]] = {}
        for number, stream in enumerate(streams):
            for key, column in zip(stream.column_names, stream.columns, strict=True):
                if column.null_count < stream.num_rows:
                    self._having.setdefault(key, []).append(number)

    @property
    def keys(self) -> list[str]:
        return [key for key in self._having if key != REST]

    def column(self, key: str) -> Any | None:
        """The values under a key row by row: in their type if all streams agree on it, else as JSON texts."""
        having = self._having.get(key, [])
        kinds = {self._streams[number].schema.field(key).type for number in having}
        if not kinds:
            return None
        kind = kinds.pop() if len(kinds) == 1 else pa.binary()
        pieces, end = [], 0
        for number in having:
            array = whole(self._streams[number][key])
            pieces += [pa.nulls(self._starts[number] - end, kind), _json_texts(array) if kind == pa.binary() else array]
            end = self._starts[number + 1]
        pieces = [piece for piece in [*pieces, pa.nulls(self._starts[-1] - end, kind)] if len(piece)]
        array = pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)
        return array if self._rows is None else array.take(self._rows)

    def leave(self, key: str, left: Leftovers) -> None:
        """All values under a key to what is left over."""
        for number in self._having[key]:
            start, stream = self._starts[number], self._streams[number]
            left.add(key, self._places.slice(start, stream.num_rows), _json_texts(whole(stream[key])))

    @cached_property
    def _places(self) -> Any:
        """The row of each document, null for one nobody points to."""
        return pc.index_in(pa.array(range(self._starts[-1]), pa.int64()), value_set=self._numbers, skip_nulls=True)


def _rows(numbers: Any, documents: int) -> Any | None:
    """The row of each document, or None when they are all rows in turn, which is the usual case."""
    if numbers.null_count or len(numbers) != documents:
        return numbers
    return None if pc.all(pc.less(numbers[:-1], numbers[1:])).as_py() else numbers


def _columns(streams: _Streams, wanted: Wanted, left: Leftovers) -> dict[str, Any]:
    """Typed columns of the documents; what fits none of them is left over."""
    names, made = wanted.names(), {}
    for key in streams.keys:
        if not names.is_free(key) or not names.has_room(key):
            streams.leave(key, left)
            continue
        array = streams.column(key)
        if array is None or array.null_count == len(array):
            continue
        names.take(key)
        column = _fit(array, wanted.types.get(key), key, left)
        if column is not None:
            made[key] = column
    return made


def _fit(array: Any, known: Any | None, key: str, left: Leftovers) -> Any | None:
    """The array as a column of the table, or of the type it has when the table does not know the key."""
    if array.type == (known or array.type) and array.type != pa.binary() and not moments.is_beyond(array):
        return array
    texts = _json_texts(array)
    fitted = values.fit(texts, known or (None if array.type == pa.binary() else array.type))
    if fitted.misfits:
        misfits = pa.array(fitted.misfits, pa.int64())
        left.add(key, misfits, texts.take(misfits))
    return fitted.array


def _json_texts(array: Any) -> Any:
    """Each value as JSON text, null for null. One by one where Arrow's words are not JSON's: 1 us a value."""
    if array.type == pa.binary():
        return array
    if array.type in PLAIN:
        return array.cast(pa.string()).cast(pa.binary())
    if array.type in moments.BOUNDS:
        array = moments.spelled(array)
    texts = [None if value is None else dump_value(value) for value in array.to_pylist()]
    return pa.array(texts, pa.binary())


def _take_rest(texts: Any | None, left: Leftovers) -> dict[int, str]:
    """Add what the children found no column for; returns the rows where that is not readable, and why."""
    unreadable: dict[int, str] = {}
    if texts is None:
        return unreadable
    found: Rest = {}
    for row in pc.indices_nonzero(texts.is_valid()).to_pylist():
        text = texts[row].as_py().encode()
        try:
            members = exact.split(text)
        except exact.NotJson as exc:
            unreadable[row] = f"{REST} is {exc}"
            continue
        if members is None:
            unreadable[row] = f"{REST} is {text[:40]!r}, wanted an object"
            continue
        found[row] = [(key, bytes(value)) for key, value in members.items()]
    left.add_members(found)
    return unreadable
