"""The triggers in a database: which are ours, made, and taken away. Functions over a connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from rpc.capture import triggers
from rpc.capture.expressions import quoted
from rpc.capture.tables import PREFIX, Refused, UserTable
from rpc.errors import CaptureError
from rpc.outbox_file import has_tables

_TRIGGERS = f"""SELECT name, sql, tbl_name, name GLOB '{PREFIX}*' FROM sqlite_schema WHERE type = 'trigger'
ORDER BY rowid DESC"""  # noqa: S608 - a constant

UNSAFE = "unsafe use of json_quote()"
"""What SQLite 3.38 to 3.40 says of a trigger under `trusted_schema = OFF`, by its build or by a PRAGMA."""


def present(connection: sqlite3.Connection) -> dict[str, dict[str, str]]:
    """Our triggers by their table, as SQL by their names; under no name when one of the user is newer.

    SQLite fires the newest first: an entry must be written before a trigger of the user changes the row once more.
    """
    found: dict[str, dict[str, str]] = {}
    with_newer: set[bytes] = set()
    for name, sql, table, is_ours in connection.execute(_TRIGGERS).fetchall():
        if not is_ours:
            with_newer.add(table.lower())  # as it was typed
        else:
            shown = "" if table.lower() in with_newer else name.decode()
            found.setdefault(table.decode(), {})[shown] = sql.decode()
    return found


def is_attached(connection: sqlite3.Connection, found: list[UserTable]) -> bool:
    """Whether exactly the triggers of these tables exist, newer than all others."""
    return has_tables(connection) and present(connection) == {table.name: triggers.of(table) for table in found}


def drop_triggers(connection: sqlite3.Connection, tables: Collection[str] | None = None) -> None:
    """Drop our triggers of these tables, or all."""
    for name, _, table, is_ours in connection.execute(_TRIGGERS).fetchall():
        if is_ours and (tables is None or table.decode() in tables):
            connection.execute(f"DROP TRIGGER {quoted(name.decode())}")


def renew(connection: sqlite3.Connection, found: list[UserTable], *, refused: Refused | None) -> list[UserTable]:
    """Have the triggers of exactly these tables, and return the tables that have them.

    Raises CaptureError for a table whose triggers SQLite refuses, or notes it in `refused` and leaves out that table.
    What is refused keeps the triggers that it has, and what is as wanted is not touched.
    """
    were = present(connection)
    drop_triggers(connection, were.keys() - {table.name for table in found} - set(refused or ()))
    return [
        table for table in found if were.get(table.name) == triggers.of(table) or _renewed(connection, table, refused)
    ]


def _renewed(connection: sqlite3.Connection, table: UserTable, refused: Refused | None) -> bool:
    connection.execute("SAVEPOINT _evodb_renewed")
    try:
        drop_triggers(connection, [table.name])
        create_triggers(connection, table)
        renewed = True
    except CaptureError as exc:
        if refused is None:
            raise
        connection.execute("ROLLBACK TO _evodb_renewed")
        refused[table.name], renewed = exc, False
    connection.execute("RELEASE _evodb_renewed")
    return renewed


def create_triggers(connection: sqlite3.Connection, table: UserTable) -> None:
    """Create the triggers of a table and have SQLite compile them, for a mistake would fail the user's statements.

    By statements that touch no row: EXPLAIN of nested triggers crashes SQLite 3.40.
    """
    name = quoted(table.name)
    column = quoted(table.rowid or table.key[0])
    try:
        for sql in triggers.of(table).values():
            connection.execute(sql)
        for statement in (
            "INSERT INTO {} ({}) SELECT 1 WHERE 0",
            "UPDATE {} SET {} = 1 WHERE 0",
            "DELETE FROM {} WHERE 0",
        ):
            connection.execute(statement.format(name, column))
    except sqlite3.OperationalError as exc:
        advice = "name the tables to capture with tables=[...]"
        if UNSAFE in str(exc):
            advice = f"SQLite {sqlite3.sqlite_version} is built to trust no schema, which wants 3.41 or newer"
        raise CaptureError(f"table {table.name!r} cannot be captured: {exc}; {advice}") from exc
