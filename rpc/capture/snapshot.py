"""The rows that were there before capture: written as INSERT entries beside the changes, a chunk at a time.

    plan -> step -> step -> ... -> done          where it is, is kept in _evodb_meta with every chunk

A plan is made once the triggers stand, so whoever changes a row from then on is logged. A chunk is read, logged and
ticked off within one IMMEDIATE transaction: no change of its rows can come between, so the entry behind the snapshot's
is always the later one, and a kill leaves a chunk whole or not begun. Rows behind the last one of the plan came later
and are logged by their triggers; a new row before it is told twice, by its trigger and, as it is then, by the snapshot.
So a reader takes an INSERT with the metadata {"snapshot": true} as "the row is now", not as "the row is new".

Everything is SQL, keys never come to Python: they keep their type, whatever the encoding of the database.
Functions over a connection, within the caller's transaction. Measured (one core, 500 rows of 19 columns a chunk, with
fsync): a chunk takes 4.4 ms in a rollback journal, 4.0 ms in WAL; with cut, ack and pauses 28 000 and 33 000 rows/s,
while somebody else's UPDATE waits 1 ms as a rule and 54 ms at most, in WAL 9 ms.
"""

# ruff: noqa: S608 - the names are quoted, and values never come here

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from rpc.capture.expressions import literal, quoted, row_id, row_json
from rpc.capture.tables import UserTable
from rpc.capture.triggers import NOW_MS
from rpc.capture.values import SNAPSHOT

COUNT_INSTRUCTIONS_MAX = 5_000_000
"""Of SQLite's machine, about 50 ms, for counting the rows of one table; what is larger is estimated."""
EVERYTHING = "1"
"""The condition that every row meets."""
TERMS_MAX = 100
"""Of one sum, for SQLite bounds the depth of an expression."""


class Progress(NamedTuple):
    """How far the snapshot of a table is. `total` is what was counted or estimated when it was planned, if anything."""

    table: str
    rows: int
    total: int | None
    done: bool


def plan(connection: sqlite3.Connection, table: UserTable, *, total: int | None, where: str = EVERYTHING) -> None:
    """Begin the snapshot of a table, or begin it anew: every row there is now, as far as `where` (SQL over `o`) holds.

    A snapshot of all rows that is under way stays one of all rows.
    """
    was_whole = table.name in whole(connection)
    if was_whole and table.name in unfinished(connection):
        where = EVERYTHING
    forget(connection, table.name)
    keys = _terms(table)
    newest = ", ".join(f"{term} DESC" for term in keys)
    for at, term in enumerate(keys):
        _set(
            connection,
            table.name,
            f"high{at}",
            f"SELECT {term} FROM {quoted(table.name)} AS o ORDER BY {newest} LIMIT 1",
        )
    _set(connection, table.name, "where", f"SELECT {literal(where)}")
    _set(connection, table.name, "whole", f"SELECT {int(was_whole or where == EVERYTHING)}")
    _set(connection, table.name, "rows", "SELECT 0")
    _set(connection, table.name, "total", f"SELECT {'NULL' if total is None else total}")
    _set(connection, table.name, "done", "SELECT 0")


def step(connection: sqlite3.Connection, table: UserTable, *, rows_max: int, bytes_max: int) -> int:
    """Log the next chunk and tick it off; returns how many entries that were. Less than `rows_max` may be the end."""
    rows, is_last = _next_rows(connection, table, rows_max=rows_max, bytes_max=bytes_max)
    logged = 0
    if rows:
        where = connection.execute("SELECT value FROM _evodb_meta WHERE key = ?", (_key(table.name, "where"),))
        logged = _log(connection, table, rows, where.fetchone()[0].decode())
    if is_last:
        connection.execute("UPDATE _evodb_meta SET value = 1 WHERE key = ?", (_key(table.name, "done"),))
    return logged


def unfinished(connection: sqlite3.Connection) -> list[str]:
    return [found.table for found in progress(connection) if not found.done]


def whole(connection: sqlite3.Connection) -> set[str]:
    """The tables of which a snapshot of all rows was planned once, whatever was planned later."""
    rows = connection.execute("SELECT key FROM _evodb_meta WHERE key GLOB 'snapshot:*:whole' AND value").fetchall()
    return {key.decode().split(":")[1] for (key,) in rows}


def progress(connection: sqlite3.Connection) -> list[Progress]:
    """Every table that has a snapshot, done or under way."""
    fields = {key.decode(): value for key, value in connection.execute(_FIELDS)}
    names = [key.split(":")[1] for key in fields if key.endswith(":done")]
    return [
        Progress(name, fields[_key(name, "rows")], fields[_key(name, "total")], bool(fields[_key(name, "done")]))
        for name in sorted(names)
    ]


def forget(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("DELETE FROM _evodb_meta WHERE key GLOB ?", (_key(name, "*"),))


def estimate(connection: sqlite3.Connection, table: UserTable) -> int | None:
    """How many rows a table has: counted if that is quick, else taken from its row numbers, else not known."""
    connection.set_progress_handler(lambda: 1, COUNT_INSTRUCTIONS_MAX)
    try:
        return int(connection.execute(f"SELECT count(*) FROM {quoted(table.name)}").fetchone()[0])
    except sqlite3.OperationalError:
        pass  # interrupted
    finally:
        connection.set_progress_handler(None, 0)
    if table.rowid is None:
        return None
    number, name = quoted(table.rowid), quoted(table.name)
    span = f"SELECT (SELECT max({number}) FROM {name}) - (SELECT min({number}) FROM {name}) + 1"
    return int(connection.execute(span).fetchone()[0])


_FIELDS = "SELECT key, value FROM _evodb_meta WHERE key GLOB 'snapshot:*'"


def _next_rows(connection: sqlite3.Connection, table: UserTable, *, rows_max: int, bytes_max: int) -> tuple[int, bool]:
    """How many rows the next chunk has, and whether they are the last. Writes down where it ends."""
    keys, order = _terms(table), ", ".join(_terms(table))
    rest = f"FROM {quoted(table.name)} AS o WHERE {_behind(connection, table)}{_up_to(table, 'high')} ORDER BY {order}"
    found = connection.execute(f"SELECT {_size(table)} {rest} LIMIT ?", (rows_max,))
    rows, size_bytes, is_last = 0, 0, True
    for (row_bytes,) in found:
        size_bytes += row_bytes
        if rows and size_bytes > bytes_max:
            is_last = False
            break
        rows += 1
    found.close()
    if rows:
        for at, term in enumerate(keys):
            _set(connection, table.name, f"to{at}", f"SELECT {term} {rest} LIMIT 1 OFFSET {rows - 1}")
    return rows, is_last and rows < rows_max


def _log(connection: sqlite3.Connection, table: UserTable, rows: int, where: str) -> int:
    logged = connection.execute(
        "INSERT INTO _evodb_change (timestamp_ms, operation, table_name, row_id, after, metadata)"
        f" SELECT {NOW_MS}, 0, {literal(table.name)}, {row_id(table, 'o')}, {row_json(table, 'o')},"
        f" {literal(SNAPSHOT.decode())} FROM {quoted(table.name)} AS o"
        f" WHERE {_behind(connection, table)}{_up_to(table, 'to')} AND ({where}) ORDER BY {', '.join(_terms(table))}"
    ).rowcount
    for at in range(len(_terms(table))):
        end = literal(_key(table.name, f"to{at}"))
        _set(connection, table.name, f"at{at}", f"SELECT value FROM _evodb_meta WHERE key = {end}")
    connection.execute("UPDATE _evodb_meta SET value = value + ? WHERE key = ?", (rows, _key(table.name, "rows")))
    return logged


def _behind(connection: sqlite3.Connection, table: UserTable) -> str:
    """SQL: the row `o` is behind the last one that was logged, if any was."""
    key = _key(table.name, "at0")
    begun = connection.execute("SELECT 1 FROM _evodb_meta WHERE key = ?", (key,)).fetchone()
    return f"({', '.join(_terms(table))}) > {_mark(table, 'at')} AND " if begun else ""


def _up_to(table: UserTable, mark: str) -> str:
    return f"({', '.join(_terms(table))}) <= {_mark(table, mark)}"


def _mark(table: UserTable, mark: str) -> str:
    values = (
        f"(SELECT value FROM _evodb_meta WHERE key = {literal(_key(table.name, f'{mark}{at}'))})"
        for at in range(len(_terms(table)))
    )
    return f"({', '.join(values)})"


def _terms(table: UserTable) -> list[str]:
    """What puts the rows `o` in an order without ties: the rowid, else the key as its index compares it."""
    if table.rowid:
        return [f"o.{quoted(table.rowid)}"]
    for unique in table.uniques:
        if unique.is_plain and [term.column for term in unique.terms] == list(table.key):
            return [f"o.{quoted(term.column or '')} COLLATE {quoted(term.collation)}" for term in unique.terms]
    raise AssertionError(f"WITHOUT ROWID table {table.name} has no index for its key")


def _size(table: UserTable) -> str:
    """SQL for about how many bytes the row `o` has."""
    lengths = [f"coalesce(length(o.{quoted(column)}), 0)" for column in table.columns]
    chunks = [lengths[at : at + TERMS_MAX] for at in range(0, len(lengths), TERMS_MAX)]
    return " + ".join(f"({' + '.join(chunk)})" for chunk in chunks)


def _key(name: str, field: str) -> str:
    return f"snapshot:{name}:{field}"


def _set(connection: sqlite3.Connection, name: str, field: str, select: str) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO _evodb_meta (key, value) SELECT {literal(_key(name, field))}, ({select})"
    )
