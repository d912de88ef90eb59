"""The user's tables as capture sees them: their columns, what names a row, and what makes rows collide.

Read only. A table is refused here, by name and with what to do, when its changes could not be told apart or sent.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rpc.capture import indexes, row_names
from rpc.capture.indexes import Unique
from rpc.errors import CaptureError
from rpc.names import is_table

ROWID_NAMES = ("_rowid_", "rowid", "oid")
PREFIX = "_evodb_"
CONSTANTS = {"NULL", "TRUE", "FALSE", "CURRENT_TIME", "CURRENT_DATE", "CURRENT_TIMESTAMP"}
_NAME = re.compile(r"""[^\W\d][\w$]*|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]""")


_TYPED = re.compile("INT|CHAR|CLOB|TEXT", re.IGNORECASE)


class _Kind(NamedTuple):
    without_rowid: bool
    strict: bool


@dataclass(frozen=True, slots=True)
class UserTable:
    """A table to be captured.

    key: primary key columns, () when rows have none but their rowid; rowid: a name for the rowid that no column has
    taken, None in a WITHOUT ROWID table; key_is_rowid: the key is an INTEGER PRIMARY KEY; not_null: defaults (SQL) of
    the columns that cannot be null; key_is_mixed: the key is one column that keeps 1, '1' and x'31' apart, and so do
    the names of its rows.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    rowid: str | None
    key_is_rowid: bool
    not_null: dict[str, str | None]
    uniques: tuple[Unique, ...]
    key_is_mixed: bool = False


Refused = dict[str, CaptureError]
"""Why tables, by their names, cannot be captured."""


def read(
    connection: sqlite3.Connection, names: Sequence[str] | None, *, refused: Refused | None = None
) -> list[UserTable]:
    """The tables with these names, or every ordinary table.

    Raises CaptureError for what cannot be captured, or notes it in `refused` and reads the others.
    """
    rows = connection.execute(
        "SELECT name, wr, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
        " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_evodb\\_%' ESCAPE '\\' ORDER BY name"
    ).fetchall()
    known = {name.decode(): _Kind(bool(without_rowid), bool(strict)) for name, without_rowid, strict in rows}
    return list(_readable(connection, known, list(known if names is None else dict.fromkeys(names)), refused))


def _readable(
    connection: sqlite3.Connection, known: dict[str, _Kind], names: list[str], refused: Refused | None
) -> Iterator[UserTable]:
    for name in names:
        try:
            chosen = _chosen(name, known)
            yield _read(connection, chosen, known[chosen])
        except CaptureError as exc:
            if refused is None:
                raise
            refused[name] = exc


def _chosen(name: str, known: dict[str, _Kind]) -> str:
    for found in known:
        if found.lower() == name.lower():
            return found
    raise CaptureError(
        f"there is no ordinary table {name!r}; this database has {', '.join(map(repr, known)) or 'none'}. "
        "Views and virtual tables cannot be captured"
    )


def _read(connection: sqlite3.Connection, name: str, kind: _Kind) -> UserTable:
    if not is_table(name.encode("utf-8", "surrogateescape")):
        raise CaptureError(
            f"table {name!r} cannot be sent: a name may have 1 to 255 letters, digits, '_', '-' and '.'. "
            "Rename it, or name the tables to capture with tables=[...]"
        )
    rows = connection.execute(
        'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_xinfo(?) WHERE hidden <> 1', (name,)
    ).fetchall()
    columns = tuple(_text(row[0]) for row in rows)
    keys = sorted((pk, _text(column), _text(declared)) for column, declared, _, _, pk in rows if pk)
    uniques, has_key_index = indexes.read(connection, name)
    # INTEGER PRIMARY KEY DESC looks the same, but has an index of its own: it is no name for the rowid.
    key_is_rowid = len(keys) == 1 and keys[0][2].upper() == "INTEGER" and not has_key_index and not kind.without_rowid
    not_null = {_text(row[0]): None if row[3] is None else default_sql(_text(row[3])) for row in rows if row[2]}
    if kind.without_rowid:
        not_null |= {column: None for _, column, _ in keys if column not in not_null}
    rowid = None if kind.without_rowid else keys[0][1] if key_is_rowid else _rowid_name(name, columns)
    is_mixed = len(keys) == 1 and _is_untyped(keys[0][2], kind) and row_names.are_apart(connection)
    return UserTable(name, columns, tuple(key for _, key, _ in keys), rowid, key_is_rowid, not_null, uniques, is_mixed)


def _is_untyped(declared: str, kind: _Kind) -> bool:
    """Whether a column keeps every value as it came, by SQLite's rules of affinity."""
    if kind.strict:
        return declared.upper() == "ANY"
    return not _TYPED.search(declared) and (not declared or "BLOB" in declared.upper())


def _rowid_name(table: str, columns: tuple[str, ...]) -> str:
    taken = {column.lower() for column in columns}
    for name in ROWID_NAMES:
        if name not in taken:
            return name
    raise CaptureError(
        f"table {table!r} has columns named {', '.join(ROWID_NAMES)}, so its rows cannot be named; rename one of them"
    )


def default_sql(text: str) -> str:
    """What pragma_table_xinfo tells of a DEFAULT, as an expression: there a mere name is a text, as `DEFAULT open`."""
    if text.upper() in CONSTANTS or not _NAME.fullmatch(text):
        return text
    if (quote := text[0]) in '"`[':
        text = text[1:-1].replace(quote * 2, quote)
    return "'" + text.replace("'", "''") + "'"


def _text(value: bytes) -> str:
    return value.decode()
