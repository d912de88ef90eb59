"""The triggers in a database: which are ours, made, and taken away. Functions over a connection."""

from __future__ import annotations

import sqlite3

from rpc.capture import triggers
from rpc.capture.expressions import quoted
from rpc.capture.tables import PREFIX, UserTable
from rpc.errors import CaptureError
from rpc.outbox_file import has_tables

_TRIGGERS = f"""SELECT name, sql, tbl_name, name GLOB '{PREFIX}*' FROM sqlite_schema WHERE type = 'trigger'
ORDER BY rowid DESC"""  # noqa: S608 - a constant


def names(connection: sqlite3.Connection) -> set[str]:
    """The tables that have triggers of ours."""
    return {table.decode() for _, _, table, is_ours in connection.execute(_TRIGGERS).fetchall() if is_ours}


def is_attached(connection: sqlite3.Connection, found: list[UserTable]) -> bool:
    """Whether exactly the triggers of these tables exist, newer than all others.

    SQLite fires the newest first: an entry must be written before a trigger of the user changes the row once more.
    """
    wanted = {name: sql for table in found for name, sql in triggers.of(table).items()}
    ours: dict[str, str] = {}
    older_trigger_of: set[str] = set()
    for name, sql, table, is_ours in connection.execute(_TRIGGERS).fetchall():
        if not is_ours:
            older_trigger_of.add(table)
        elif table in older_trigger_of:
            return False
        else:
            ours[name.decode()] = sql.decode()
    return has_tables(connection) and ours == wanted


def drop_triggers(connection: sqlite3.Connection) -> None:
    for name, _, _, is_ours in connection.execute(_TRIGGERS).fetchall():
        if is_ours:
            connection.execute(f"DROP TRIGGER {quoted(name.decode())}")


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
        raise CaptureError(
            f"table {table.name!r} cannot be captured: {exc}; name the tables to capture with tables=[...]"
        ) from exc
