"""A table of an edge database made anew from documents: values as they were captured, a schema as far as they tell it.

Nothing of a schema travels, so it is inferred, and never at the cost of a value: rows are put into a table without
types first, and a type is declared only where every value of the column has that storage class. A key is a column, or
some of them, that spell the row id in every row; else an integer row id is the rowid. Constraints, defaults, indexes
and triggers are not known. Over a connection of SQLite, which is passed in.
"""

from __future__ import annotations

import base64
import binascii
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

STAGE = "_evodb_restored"
INTEGER_MAX = 2**63 - 1
DIGITS_MAX = 4000
"""Of a number that Python reads as one; a longer one is the text it was."""
FOLDED = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""Case as SQLite sees it in a name: `Ä` and `ä` are two columns."""
KINDS = {"integer": "INTEGER", "real": "REAL", "text": "TEXT", "blob": "BLOB"}
"""What is declared for a column that holds nothing else (and null)."""

Value = int | float | str | bytes | None


class Connection(Protocol):
    """What is used of sqlite3's."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any: ...


class Document(NamedTuple):
    """A row of the lake: its id, its JSON, the columns whose text is bytes in base64, and JSON of more columns."""

    row_id: str
    text: str
    blobs: str | None = None
    rest: str | None = None


def values_of(document: Document) -> dict[str, Value]:
    """The columns of a row with their values as SQLite has them."""
    found = json.loads(document.text, parse_int=_integer)
    if not isinstance(found, dict):
        return {"value": _value(found)}
    if document.rest:
        found |= json.loads(document.rest, parse_int=_integer)
    named = json.loads(document.blobs) if document.blobs else []
    blobs = set(named) if isinstance(named, list) else set()
    return {name: _blob(value) if name in blobs else _value(value) for name, value in found.items()}


def rebuild(connection: Connection, table: str, documents: Iterable[Document], columns: Mapping[str, str]) -> int:
    """Make this table; `columns` with their types are for one that has no rows. Returns how many rows it has."""
    connection.execute(f"CREATE TEMP TABLE {STAGE} (_row_id TEXT NOT NULL)")
    known: dict[str, int] = {}
    rows = 0
    for document in documents:
        values = values_of(document)
        for name in values:
            if name not in known:
                _refuse_clash(name, known, table)
                known[name] = len(known)
                connection.execute(f"ALTER TABLE {STAGE} ADD COLUMN c{known[name]}")
        places = ["_row_id", *(f"c{known[name]}" for name in values)]
        connection.execute(
            f"INSERT INTO {STAGE} ({', '.join(places)}) VALUES ({', '.join('?' * len(places))})",  # noqa: S608 - ours
            [document.row_id, *values.values()],
        )
        rows += 1
    if known:
        _finish(connection, table, known)
    elif columns:
        declared = ", ".join(f"{quoted(name)} {kind}".rstrip() for name, kind in columns.items())
        connection.execute(f"CREATE TABLE main.{quoted(table)} ({declared})")
    connection.execute(f"DROP TABLE temp.{STAGE}")
    return rows


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class NotATable(Exception):
    """What the lake has of a table cannot be one of SQLite."""


def spelled(name: str) -> str:
    """As SQL can say it, which has neither NUL nor half a surrogate pair."""
    return name.encode(errors="replace").decode().replace("\0", "\ufffd")


def _refuse_clash(name: str, known: Mapping[str, int], table: str) -> None:
    for other in known:
        if spelled(other).translate(FOLDED) == spelled(name).translate(FOLDED):
            raise NotATable(f"{table} has the columns {other!r} and {name!r}, which are one to SQLite")


def _finish(connection: Connection, table: str, known: Mapping[str, int]) -> None:
    kinds = {name: _kind(connection, place) for name, place in known.items()}
    key = _key(connection, known)
    is_number = len(key) == 1 and kinds[key[0]] == "INTEGER"
    declared = [
        f"{quoted(spelled(name))} {kind}".rstrip() + (" PRIMARY KEY" if is_number and name == key[0] else "")
        for name, kind in kinds.items()
    ]
    if key and not is_number:
        declared.append(f"PRIMARY KEY ({', '.join(map(quoted, map(spelled, key)))})")
    connection.execute(f"CREATE TABLE main.{quoted(table)} ({', '.join(declared)})")
    into, taken = [quoted(spelled(name)) for name in known], [f"c{place}" for place in known.values()]
    order = "rowid"
    if not key and (rowid := _free_rowid(known)) and _is_rowid(connection):
        into, taken, order = [rowid, *into], ["CAST(_row_id AS INTEGER)", *taken], "CAST(_row_id AS INTEGER)"
    connection.execute(
        f"INSERT INTO main.{quoted(table)} ({', '.join(into)}) "  # noqa: S608 - quoted
        f"SELECT {', '.join(taken)} FROM {STAGE} ORDER BY {order}"
    )


def _kind(connection: Connection, place: int) -> str:
    found = connection.execute(
        f"SELECT DISTINCT typeof(c{place}) FROM {STAGE} WHERE c{place} IS NOT NULL LIMIT 2"  # noqa: S608 - ours
    ).fetchall()
    return KINDS[found[0][0]] if len(found) == 1 else ""


def _key(connection: Connection, known: Mapping[str, int]) -> list[str]:
    """The columns that spell the row id: one as text, bytes as hex, several as a JSON array."""
    for name, place in known.items():
        if _holds(connection, f"CASE typeof(c{place}) WHEN 'blob' THEN hex(c{place}) ELSE CAST(c{place} AS TEXT) END"):
            return [name]
    (first,) = connection.execute(f"SELECT _row_id FROM {STAGE} LIMIT 1").fetchone()  # noqa: S608 - ours
    try:
        parts = json.loads(first)
    except ValueError:
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


def _spells(connection: Connection, at: int, place: int) -> bool:
    part = f"json_extract(_row_id, '$[{at}]')"
    value = f"CASE typeof(c{place}) WHEN 'blob' THEN hex(c{place}) ELSE c{place} END"
    return not _any(connection, f"{part} IS NOT {value}")


def _is_rowid(connection: Connection) -> bool:
    return _holds(connection, "CAST(CAST(_row_id AS INTEGER) AS TEXT)")


def _free_rowid(known: Mapping[str, int]) -> str | None:
    """SQLite's name for the rowid that no column has taken."""
    taken = {name.lower() for name in known}
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
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
        return str(value)
    if value is None or isinstance(value, int | float):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return text if _is_unicode(text) else json.dumps(value)  # half a surrogate pair is there as its escape


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
