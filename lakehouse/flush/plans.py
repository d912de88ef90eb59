"""What the keys of documents hold, as far as they were looked at, and the plan for `structs` that follows.

A plan is refused when only the exact path does justice to the documents: names that differ in case only or are no
names to msgspec, more fields than a class should have, or values that are JSON to Python but not to msgspec.
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from lakehouse.flush import exact, moments
from lakehouse.flush.names import COLUMNS_MAX, Names, are_apart
from lakehouse.flush.structs import CHUNK_DOCUMENTS, Kind, Plan, Surprise
from lakehouse.flush.widening import WIDER

SAMPLE_DOCUMENTS = 64
FIELDS_MAX = 300
"""A class with more fields looks for each key in a long list."""

_MARKS = {b'"': Kind.TEXT, b"{": Kind.JSON, b"[": Kind.JSON, b"t": Kind.BOOL, b"f": Kind.BOOL}
_FITTING = {
    Kind.BOOL: {Kind.BOOL},
    Kind.INTEGER: {Kind.INTEGER},
    Kind.DOUBLE: {Kind.INTEGER, Kind.DOUBLE},
    Kind.TEXT: {Kind.TEXT},
}
_KINDS: dict[Any, Kind] = {pa.bool_(): Kind.BOOL, pa.int64(): Kind.INTEGER, pa.float64(): Kind.DOUBLE}
_UNFIT = re.compile(r'[\\"\x00-\x1f]')
"""msgspec names no field like that."""
_FRACTION = frozenset(b".eE")


class Survey:
    """The kinds of values seen under each key. `types` are the columns the table has, `names` say what may be one."""

    def __init__(self, types: dict[str, Any], names: Names | None = None) -> None:
        self._types = types
        self._names = names or Names(types)
        self._seen: dict[str, set[Kind]] = {}
        self._is_for_msgspec = True

    @property
    def seen_count(self) -> int:
        return sum(1 + len(kinds) for kinds in self._seen.values())

    def sample(self, texts: Any) -> dict[int, str]:
        """Look at documents from everywhere; returns those that are not JSON."""
        step = max(1, len(texts) // SAMPLE_DOCUMENTS)
        return self._look(texts, range(0, len(texts), step))

    def learn(self, texts: Any, surprise: Surprise) -> dict[int, str]:
        """Look at where the plan failed; returns the documents that are not JSON."""
        if surprise.key is not None:
            self._seen[surprise.key].add(Kind.JSON)
            return {}
        return self._look(texts, range(surprise.start, min(surprise.start + CHUNK_DOCUMENTS, len(texts))))

    def plan(self) -> Plan | None:
        """A kind for every key that was seen, or None when these documents are for the exact path."""
        names = self._names
        unknown = {key for key in self._seen if key not in self._types and names.is_free(key)}
        is_unfit = any(_UNFIT.search(key) for key in self._seen)
        too_many = len(self._seen) > FIELDS_MAX or len(self._types) + len(unknown) > COLUMNS_MAX
        if not self._is_for_msgspec or is_unfit or too_many or not are_apart(unknown):
            return None
        return tuple(
            (key, _kind(kinds, self._types.get(key)) if names.is_free(key) else Kind.REST)
            for key, kinds in self._seen.items()
        )

    def _look(self, texts: Any, rows: range) -> dict[int, str]:
        unreadable = {}
        for row in rows:
            document = texts[row].as_py().encode()
            try:
                members = exact.split_strictly(document)
            except exact.NotJson:
                try:
                    exact.split(document)
                    self._is_for_msgspec = False
                except exact.NotJson as exc:
                    unreadable[row] = str(exc)
            else:
                for key, value in members.items():
                    self._note(key, bytes(value))
        return unreadable

    def _note(self, key: str, value: bytes) -> None:
        kinds = self._seen.setdefault(key, set())
        if value != b"null":
            kinds.add(_MARKS.get(value[:1]) or (Kind.INTEGER if _FRACTION.isdisjoint(value) else Kind.DOUBLE))


def _kind(kinds: set[Kind], known: Any | None) -> Kind:
    if known is not None:
        wanted = _kind_of_type(known)
        return wanted if kinds <= _FITTING.get(wanted, set()) else Kind.JSON
    if kinds == {Kind.INTEGER, Kind.DOUBLE}:
        return Kind.DOUBLE
    return next(iter(kinds)) if len(kinds) == 1 else Kind.JSON


def _kind_of_type(known: Any) -> Kind:
    if known in (moments.TIMESTAMP, moments.DATE) or pa.types.is_string(known) or pa.types.is_large_string(known):
        return Kind.TEXT
    return _KINDS.get(WIDER.get(known, known), Kind.JSON)
