"""JSON documents of one table as typed columns, and what fits none of them.

The values of a key are looked at over all documents of a flush, then get one type (`values`, `moments`). A sample of
the documents makes a plan for the fast path (`structs`); what is not as planned changes the plan, and after PLANS_MAX
of them the exact path (`exact`) reads everything. Both give the same columns.

Documents that are no objects have no columns. The first document gives the columns their order, the alphabet the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.flush import exact, moments, nested, structs, values, widening
from lakehouse.flush.names import Names, reserved_in
from lakehouse.flush.plans import Survey
from lakehouse.flush.rules import USUAL, Rules
from lakehouse.flush.structs import Surprise

PLANS_MAX = 4

NOTHING = pa.null()
"""In place of a type that no value of ours fits: all of them go to `_rest`."""

_ANY = msgspec.json.Decoder(msgspec.Raw)

Rest = dict[int, list[tuple[str, bytes]]]


@dataclass(slots=True)
class Documents:
    """Columns as long as the documents; what is left over as JSON text or null; the rows that are no JSON, and why.

    Rows of unreadable documents are null everywhere.
    """

    columns: dict[str, Any]
    rest: Any
    unreadable: dict[int, str] = field(default_factory=dict)


def read(texts: Any, known: Any | None = None, rules: Rules = USUAL, *, plans_max: int = PLANS_MAX) -> Documents:
    """The columns of these JSON texts (null where there is none), given the schema of the table if it has one.

    With `plans_max` 0 the exact path reads everything.
    """
    wanted = Wanted.of(known, rules)
    trimmed, is_object = _objects(texts)
    unreadable = _check_others(trimmed, is_object)
    objects = _Objects(trimmed, is_object)
    columns, rest = _read_as_planned(objects, wanted, plans_max) or _read_exactly(objects, wanted)
    unreadable.update(objects.unreadable)
    order = [*wanted.types, *objects.first_keys(), *sorted(columns)]
    return Documents(
        {key: objects.spread(columns[key]) for key in dict.fromkeys(order) if key in columns},
        _rest_column(rest, objects, len(texts)),
        unreadable,
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns there are, and what else may become one."""

    types: dict[str, Any]
    is_open: bool
    is_nested: bool
    structs: frozenset[str]
    """Columns that have columns of their own."""
    reserved: frozenset[str] = frozenset()
    """Names of partitions."""

    @classmethod
    def of(cls, known: Any | None, rules: Rules) -> Wanted:
        schema = rules.schema(known)
        types = {} if schema is None else {one.name: one.type for one in schema if not one.name.startswith("_")}
        structs = frozenset(name for name, kind in types.items() if nested.is_nested(kind))
        for name in structs:
            if not nested.is_writable(types[name]):
                types[name] = NOTHING
        return cls(types, rules.is_open(known), rules.is_nested, structs, reserved_in(schema))

    def names(self) -> Names:
        return Names(self.types, nested=self.structs, is_open=self.is_open, reserved=self.reserved)


def _objects(texts: Any) -> tuple[Any, Any]:
    """The texts without white space around them where it matters, and which of them can only be objects."""
    is_object = _is_braced(texts)
    if pc.sum(is_object).as_py() == len(texts) - texts.null_count:
        return texts, is_object
    texts = pc.utf8_trim(texts, " \t\n\r")
    return texts, _is_braced(texts)


def _is_braced(texts: Any) -> Any:
    return pc.fill_null(pc.and_(pc.starts_with(texts, "{"), pc.ends_with(texts, "}")), False)


def _check_others(texts: Any, is_object: Any) -> dict[int, str]:
    unreadable = {}
    for row in pc.indices_nonzero(pc.and_(texts.is_valid(), pc.invert(is_object))).to_pylist():
        try:
            exact.split(texts[row].as_py().encode())
        except exact.NotJson as exc:
            unreadable[row] = str(exc)
    return unreadable


class _Objects:
    """The texts that are objects, and their way back to the rows they came from."""

    def __init__(self, texts: Any, is_object: Any) -> None:
        self.rows = None if pc.all(is_object).as_py() is not False else pc.indices_nonzero(is_object)
        self.texts = texts if self.rows is None else texts.take(self.rows)
        self.length = len(texts)
        self.unreadable: dict[int, str] = {}
        self._places: Any | None = None

    def row(self, index: int) -> int:
        found: int = index if self.rows is None else self.rows[index].as_py()
        return found

    def drop(self, unreadable: Mapping[int, str]) -> None:
        """Forget these texts, which are not JSON."""
        if not unreadable:
            return
        self.unreadable.update({self.row(index): reason for index, reason in unreadable.items()})
        keep = pa.array([index for index in range(len(self.texts)) if index not in unreadable], pa.uint64())
        self.rows = keep if self.rows is None else self.rows.take(keep)
        self.texts = self.texts.take(keep)

    def first_keys(self) -> list[str]:
        if not len(self.texts):
            return []
        return list(exact.split(self.texts[0].as_py().encode()) or ())

    def spread(self, array: Any) -> Any:
        """An array over these texts as one over all rows; nothing is dropped from here on."""
        if self.rows is None:
            return array
        if self._places is None:
            places: list[int | None] = [None] * self.length
            for place, row in enumerate(self.rows.to_pylist()):
                places[row] = place
            self._places = pa.array(places, pa.int64())
        return array.take(self._places)


def _read_as_planned(objects: _Objects, wanted: Wanted, plans_max: int) -> tuple[dict[str, Any], Rest] | None:
    """The columns by the fast path, or None when these documents are not for it."""
    survey = Survey(wanted.types, wanted.names())
    objects.drop(survey.sample(objects.texts))
    for _ in range(plans_max):
        plan = survey.plan()
        if plan is None:
            return None
        try:
            arrays, rest = structs.read(objects.texts, plan)
            return _columns(arrays, rest, wanted), rest
        except Surprise as surprise:
            before = survey.seen_count
            unreadable = survey.learn(objects.texts, surprise)
            objects.drop(unreadable)
            if not unreadable and survey.seen_count == before:
                return None
    return None


def _read_exactly(objects: _Objects, wanted: Wanted) -> tuple[dict[str, Any], Rest]:
    found = exact.read(objects.texts, wanted.names())
    columns = _columns(found.arrays, found.rest, wanted)
    if found.unreadable:
        index = pa.array([row for row in range(len(objects.texts)) if row not in found.unreadable], pa.uint64())
        columns = {key: array.take(index) for key, array in columns.items()}
        places = {row: place for place, row in enumerate(index.to_pylist())}
        found.rest = {places[row]: members for row, members in found.rest.items()}
        objects.drop(found.unreadable)
    return columns, found.rest


def _columns(arrays: dict[str, Any], rest: Rest, wanted: Wanted) -> dict[str, Any]:
    """Typed columns of what was read; misfits go to `rest`."""
    columns, types = {}, wanted.types
    beside = _beside_points(arrays, types) if wanted.is_nested else set()
    room = nested.TABLE_FIELDS_MAX - sum(map(nested.fields_in, types.values()))
    for key, array in arrays.items():
        if array.type == pa.binary():
            fitted = values.fit(array, types.get(key), is_nested=wanted.is_nested and key not in beside, room=room)
            for row in fitted.misfits:
                rest.setdefault(row, []).append((key, array[row].as_py()))
            typed = fitted.array
            if typed is not None:
                room -= nested.fields_in(typed.type) - nested.fields_in(types.get(key))
        else:
            typed = _finish(key, array, types.get(key))
        if typed is not None:
            columns[key] = typed
    return columns


def _beside_points(arrays: Iterable[str], types: Mapping[str, Any]) -> set[str]:
    """Keys that cannot be structs, because another one says a path into them: `a` beside `a.b`."""
    return {name[:at] for name in {*arrays, *types} for at, sign in enumerate(name) if sign == "."}


def _finish(key: str, array: Any, known: Any | None) -> Any | None:
    if array.null_count == len(array):
        return None
    if array.type != pa.string():
        return array if known is None or array.type == known else widening.narrowed(array, known)
    if known is None:
        return moments.infer(array)
    if known not in (moments.TIMESTAMP, moments.DATE):
        return array
    parsed = moments.parse(array, known)
    if parsed is None:
        raise Surprise(0, key)
    return parsed


def _rest_column(rest: Rest, objects: _Objects, length: int) -> Any:
    if not rest:
        return pa.nulls(length, pa.string())
    texts: list[str | None] = [None] * length
    for index, members in rest.items():
        pairs = (f"{_key_text(key)}:{value.decode()}" for key, value in sorted(members))
        texts[objects.row(index)] = "{" + ",".join(pairs) + "}"
    return pa.array(texts, pa.string())


def _key_text(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8, but it has a JSON escape
        return json.dumps(key)
    return json.dumps(key, ensure_ascii=False)


def check(texts: Any) -> dict[int, str]:
    """The rows of texts that are not JSON, and why. 0.4 us a text of 300 bytes when all are well."""
    if texts.null_count == len(texts):
        return {}
    rows = None if not texts.null_count else pc.indices_nonzero(texts.is_valid())
    present = texts if rows is None else texts.take(rows)
    unreadable = {}
    for start, lines, count in structs.chunks(present):
        if _are_json(lines, count):
            continue
        for index in range(start, start + count):
            try:
                exact.split(present[index].as_py().encode())
            except exact.NotJson as exc:
                unreadable[index if rows is None else rows[index].as_py()] = str(exc)
    return unreadable


def _are_json(lines: Any, count: int) -> bool:
    """Whether each line is one JSON value: no newline but those between them, and as many values."""
    try:
        found = len(_ANY.decode_lines(lines))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return found == count and bytes(lines).count(b"\n") == count - 1
