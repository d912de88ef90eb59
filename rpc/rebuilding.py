"""A table of an edge database made anew from documents: values as they were captured, a schema as far as they tell it.

Nothing of a schema travels, so it is inferred, and never at the cost of a value: rows are put into a table without
types first, and a type is declared only where every value of the column has that storage class. A key is a column, or
some of them, that spell the row id in every row; else an integer row id is the rowid. Constraints, defaults, indexes
and triggers are not known. What can be no column of SQLite is in one more, as JSON, and said. Over a connection of
SQLite, which is passed in.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rpc.documents import Beside, Document, Row, Value, as_json, row_of

STAGE = "temp._evodb_restored"
COLUMNS_MAX = 2000
"""Of a table, as SQLite is built unless somebody says otherwise; two of the stage are ours."""
TAKEN_MAX = COLUMNS_MAX - 2
BESIDE = "_rest"
"""The column for what can be none, or this with `_` behind it where it is taken."""
FOLDED = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""Case as SQLite sees it in a name: `Ä` and `ä` are two columns."""
KINDS = {"integer": "INTEGER", "real": "REAL", "text": "TEXT", "blob": "BLOB"}
"""What is declared for a column that holds nothing else (and null)."""
NAMES_MAX = 3


class Connection(Protocol):
    """What is used of sqlite3's."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any: ...


@dataclass(slots=True)
class Rebuilt:
    """How many rows a table has, and what in them is no column of its own."""

    rows: int = 0
    rows_beside: int = 0
    column_beside: str = ""
    reasons: dict[str, dict[str, None]] = field(default_factory=dict)
    """Names by what is the matter with them."""

    def told(self, table: str) -> str:
        """What to say of what is beside; empty for nothing."""
        why = "; ".join(f"{reason}: {_some(list(names))}" for reason, names in self.reasons.items())
        where = f"{table}: what cannot be a column is in {self.column_beside!r}, as JSON, in {self.rows_beside} rows"
        return why and f"{where} ({why})"


def rebuild(connection: Connection, table: str, documents: Iterable[Document], columns: Mapping[str, str]) -> Rebuilt:
    """Make this table. `columns`, with their types, go before others when there are too many, and make an empty one."""
    connection.execute(f"CREATE TABLE {STAGE} (_row_id TEXT NOT NULL, _beside TEXT)")
    known, made = _Columns(columns), Rebuilt()
    for document in documents:
        row = row_of(document)
        for place in known.added(row.values):
            connection.execute(f"ALTER TABLE {STAGE} ADD COLUMN {place}")
        _put(connection, document.row_id, _divided(row, known, made))
        made.rows += 1
    if made.rows:
        _finish(connection, table, _all_places(known, made))
    elif columns:
        declared = ", ".join(f"{quoted(name)} {kind}".rstrip() for name, kind in columns.items())
        connection.execute(f"CREATE TABLE main.{quoted(table)} ({declared})")
    connection.execute(f"DROP TABLE {STAGE}")
    return made


class _Columns:
    """The columns of a table as its rows bring them: where each is in the stage, or why it is in none."""

    def __init__(self, first: Iterable[str]) -> None:
        self._first = set(first)
        self.places: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self._by_fold: dict[str, str] = {}

    def added(self, names: Iterable[str]) -> list[str]:
        """The places of those that are new."""
        found = []
        for name in names:
            if name in self.places or name in self.refused:
                continue
            other = self._by_fold.setdefault(folded(name), name)
            if other != name:
                self.refused[name] = f"one name to SQLite with {other!r}"
            elif len(self.places) + len(self._first - {name}) >= TAKEN_MAX:
                self.refused[name] = f"more than {TAKEN_MAX} columns"
            else:
                self._first.discard(name)
                self.places[name] = f"c{len(self.places)}"
                found.append(self.places[name])
        return found

    def free(self, name: str) -> str:
        while folded(name) in self._by_fold:
            name += "_"
        return name


def _divided(row: Row, known: _Columns, made: Rebuilt) -> dict[str, Value]:
    """The values by their place in the stage; what has none is together in one."""
    beside = row.beside | {
        name: Beside(as_json(value), known.refused[name]) for name, value in row.values.items() if name in known.refused
    }
    values = {place: row.values[name] for name, place in known.places.items() if name in row.values}
    if beside:
        made.rows_beside += 1
        for name, (_, reason) in beside.items():
            made.reasons.setdefault(reason, {})[name] = None
        members = (f"{json.dumps(name)}: {text}" for name, (text, _) in beside.items())
        values["_beside"] = "{" + ", ".join(members) + "}"
    return values


def _put(connection: Connection, row_id: str, values: Mapping[str, Value]) -> None:
    connection.execute(
        f"INSERT INTO {STAGE} ({', '.join(['_row_id', *values])}) "  # noqa: S608 - ours
        f"VALUES ({', '.join('?' * (len(values) + 1))})",
        [row_id, *values.values()],
    )


def _all_places(known: _Columns, made: Rebuilt) -> dict[str, str]:
    """With the one for what is beside, if anything is, or nothing else: a table has a column."""
    if known.places and not made.rows_beside:
        return known.places
    made.column_beside = known.free(BESIDE)
    return known.places | {made.column_beside: "_beside"}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return ", ".join(map(repr, names[:NAMES_MAX])) + more


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def folded(name: str) -> str:
    return name.translate(FOLDED)


def _finish(connection: Connection, table: str, known: Mapping[str, str]) -> None:
    kinds = {name: _kind(connection, place) for name, place in known.items()}
    key = _key(connection, known)
    if not all(kinds[name] for name in key) and not _are_apart(connection, [known[name] for name in key]):
        key = []
    is_number = len(key) == 1 and kinds[key[0]] == "INTEGER"
    declared = [
        f"{quoted(name)} {kind}".rstrip() + (" PRIMARY KEY" if is_number and name == key[0] else "")
        for name, kind in kinds.items()
    ]
    if key and not is_number:
        declared.append(f"PRIMARY KEY ({', '.join(map(quoted, key))})")
    connection.execute(f"CREATE TABLE main.{quoted(table)} ({', '.join(declared)})")
    into, taken = [quoted(name) for name in known], list(known.values())
    order = "rowid"
    if not key and (rowid := _free_rowid(known)) and _is_rowid(connection):
        into, taken, order = [rowid, *into], ["CAST(_row_id AS INTEGER)", *taken], "CAST(_row_id AS INTEGER)"
    connection.execute(
        f"INSERT INTO main.{quoted(table)} ({', '.join(into)}) "  # noqa: S608 - quoted
        f"SELECT {', '.join(taken)} FROM {STAGE} ORDER BY {order}"
    )


def _kind(connection: Connection, place: str) -> str:
    found = connection.execute(
        f"SELECT DISTINCT typeof({place}) FROM {STAGE} WHERE {place} IS NOT NULL LIMIT 2"  # noqa: S608 - ours
    ).fetchall()
    return KINDS[found[0][0]] if len(found) == 1 else ""


def _key(connection: Connection, known: Mapping[str, str]) -> list[str]:
    """The columns that spell the row id: one as text, maybe in quotes, bytes as hex, several as a JSON array."""
    for name, place in known.items():
        text = f"""CASE _row_id WHEN '"' || {place} || '"' THEN _row_id ELSE {place} END"""
        value = (
            f"CASE typeof({place}) WHEN 'blob' THEN hex({place}) WHEN 'text' THEN {text} ELSE CAST({place} AS TEXT) END"
        )
        if _holds(connection, value):
            return [name]
    (first,) = connection.execute(f"SELECT _row_id FROM {STAGE} LIMIT 1").fetchone()  # noqa: S608 - ours
    try:
        parts = json.loads(first)
    except (ValueError, RecursionError):
        return []
    if not isinstance(parts, list) or len(parts) < 2 or not _holds(connection, "json(_row_id)"):
        return []
    key: list[str] = []
    for at in range(len(parts)):
        free = (name for name in known if name not in key)
        found = next((one for one in free if _spells(connection, at, known[one])), None)
        if found is None:
            return []
        key.append(found)
    return key


def _spells(connection: Connection, at: int, place: str) -> bool:
    part = f"json_extract(_row_id, '$[{at}]')"
    value = f"CASE typeof({place}) WHEN 'blob' THEN hex({place}) ELSE {place} END"
    return not _any(connection, f"{part} IS NOT {value}")


def _are_apart(connection: Connection, places: Sequence[str]) -> bool:
    """Whether SQLite takes no two rows for one, as it does with 1 and 1.0."""
    same = f"SELECT 1 FROM {STAGE} GROUP BY {', '.join(places)} HAVING count(*) > 1 LIMIT 1"  # noqa: S608 - ours
    return connection.execute(same).fetchone() is None


def _is_rowid(connection: Connection) -> bool:
    return _holds(connection, "CAST(CAST(_row_id AS INTEGER) AS TEXT)")


def _free_rowid(known: Mapping[str, str]) -> str | None:
    """SQLite's name for the rowid that no column has taken."""
    taken = {folded(name) for name in known}
    return next((name for name in ("rowid", "_rowid_", "oid") if name not in taken), None)


def _holds(connection: Connection, expression: str) -> bool:
    """Whether this is the row id, in every row."""
    if expression.startswith("json(") and _any(connection, "json_valid(_row_id) = 0"):
        return False
    return not _any(connection, f"_row_id IS NOT {expression}")


def _any(connection: Connection, condition: str) -> bool:
    (found,) = connection.execute(
        f"SELECT EXISTS (SELECT 1 FROM {STAGE} WHERE {condition})"  # noqa: S608 - expressions of ours
    ).fetchone()
    return bool(found)
