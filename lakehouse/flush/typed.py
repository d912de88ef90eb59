"""Documents that come as Arrow already: columns of one table, shredded by the children who sent them.

No text is read where the type of a column is the table's and the same in all batches, which is the usual case. Where
it is not, values become JSON texts and find their place as all others do (`values`); what fits nowhere is kept in the
rest. Rows of the same table that came as JSON get the types found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.flush import documents, exact, moments, values, widening
from lakehouse.flush.documents import Documents, Rest, Wanted
from lakehouse.flush.rules import USUAL, Rules
from lakehouse.flush.whole import whole
from rpc.arrow_stream import REST
from rpc.entries import dump_value


def read(streams: Sequence[Any], numbers: Any, texts: Any, known: Any | None, rules: Rules = USUAL) -> Documents:
    """The columns of all rows of a table: of those with a number from the streams, of the others from their texts.

    `numbers` counts through the rows of all streams of the table, null for a row without a typed document.
    """
    wanted = Wanted.of(known, rules)
    types, rest = wanted.types, Rest()
    streams = _joined(streams)
    rows = _rows(streams, numbers)
    typed = _columns(streams, rows, wanted, rest)
    unreadable = _take_rest(_column(streams, rows, REST), rest)
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
        pc.coalesce(_rest_texts(rest, len(numbers)), found.rest),
        found.unreadable | unreadable,
    )


def _joined(streams: Sequence[Any]) -> Sequence[Any]:
    """One stream of all those that have the same columns, which is the usual case."""
    first = streams[0].schema
    return [pa.concat_tables(streams)] if all(stream.schema.equals(first) for stream in streams) else streams


def _rows(streams: Sequence[Any], numbers: Any) -> Any | None:
    """The row of each document, or None when they are all rows in turn, which is the usual case."""
    if numbers.null_count or len(numbers) != sum(stream.num_rows for stream in streams):
        return numbers
    return None if pc.all(pc.less(numbers[:-1], numbers[1:])).as_py() else numbers


def _columns(streams: Sequence[Any], rows: Any | None, wanted: Wanted, rest: Rest) -> dict[str, Any]:
    """Typed columns of the documents in these rows; what fits none of them goes to `rest`."""
    names, made = wanted.names(), {}
    for key in dict.fromkeys(name for stream in streams for name in stream.column_names):
        if key == REST:
            continue
        array = _column(streams, rows, key)
        if array is None or array.null_count == len(array):
            continue
        if not names.is_free(key) or not names.has_room(key):
            _keep(rest, key, _json_texts(array))
            continue
        names.take(key)
        column = _fit(array, wanted.types.get(key), key, rest)
        if column is not None:
            made[key] = column
    return made


def _column(streams: Sequence[Any], rows: Any | None, key: str) -> Any | None:
    """The values under a key in these rows: in their type if all streams agree on it, else as JSON texts."""
    kinds = {stream.schema.field(key).type for stream in streams if key in stream.column_names}
    if not kinds:
        return None
    kind = kinds.pop() if len(kinds) == 1 else pa.binary()
    pieces = []
    for stream in streams:
        if key not in stream.column_names:
            pieces.append(pa.nulls(stream.num_rows, kind))
            continue
        array = whole(stream[key])
        pieces.append(_json_texts(array) if kind == pa.binary() else array)
    array = pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)
    return array if rows is None else array.take(rows)


def _fit(array: Any, known: Any | None, key: str, rest: Rest) -> Any | None:
    """The array as a column of the table, or of the type it has when the table does not know the key."""
    if array.type == (known or array.type) and array.type != pa.binary() and not moments.is_beyond(array):
        return array
    texts = _json_texts(array)
    fitted = values.fit(texts, known or (None if array.type == pa.binary() else array.type))
    for row in fitted.misfits:
        rest.setdefault(row, []).append((key, texts[row].as_py()))
    return fitted.array


def _json_texts(array: Any) -> Any:
    """Each value as JSON text, null for null. One by one: 1 us a value."""
    if array.type == pa.binary():
        return array
    if array.type in moments.BOUNDS:
        array = moments.spelled(array)
    texts = [None if value is None else dump_value(value) for value in array.to_pylist()]
    return pa.array(texts, pa.binary())


def _keep(rest: Rest, key: str, texts: Any) -> None:
    for row in pc.indices_nonzero(texts.is_valid()).to_pylist():
        rest.setdefault(row, []).append((key, texts[row].as_py()))


def _take_rest(texts: Any | None, rest: Rest) -> dict[int, str]:
    """Add what the children found no column for; returns the rows where that is not readable, and why."""
    unreadable: dict[int, str] = {}
    if texts is None:
        return unreadable
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
        rest.setdefault(row, []).extend((key, bytes(value)) for key, value in members.items())
    return unreadable


def _rest_texts(rest: Rest, length: int) -> Any:
    if not rest:
        return pa.nulls(length, pa.string())
    texts: list[str | None] = [None] * length
    for row, members in rest.items():
        texts[row] = "{" + ",".join(f"{dump_value(key).decode()}:{value.decode()}" for key, value in members) + "}"
    return pa.array(texts, pa.string())
