"""What capture missed of a table while nobody looked: which rows to write once more after the schema changed.

Between a CREATE or ALTER TABLE and the new triggers others may have written. Capture notes which columns its triggers
write (one row of _evodb_meta, within the transaction that makes them), so that the difference tells what went by.
Functions over a connection and a decision; that rows are written by a snapshot is known, how is not.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence

from rpc.capture.expressions import quoted
from rpc.capture.snapshot import EVERYTHING
from rpc.capture.tables import UserTable, default_sql

Noted = Mapping[str, Sequence[str]]
"""The columns of each captured table."""


def noted(connection: sqlite3.Connection) -> Noted | None:
    """What `note` wrote last; None when capture was never attached."""
    row = connection.execute("SELECT value FROM _evodb_meta WHERE key = 'columns'").fetchone()
    return None if row is None else {name: list(columns) for name, columns in json.loads(row[0]).items()}


def note(connection: sqlite3.Connection, found: Iterable[UserTable], *, keep: Collection[str] = ()) -> None:
    """Write down the columns of these tables, and leave those of the tables to `keep` as they were."""
    former = {name: columns for name, columns in (noted(connection) or {}).items() if name in keep}
    text = json.dumps(former | {table.name: table.columns for table in found})
    connection.execute("INSERT OR REPLACE INTO _evodb_meta (key, value) VALUES ('columns', ?)", (text,))


def defaults(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    """SQL of what ALTER TABLE put into the columns of the rows that were there."""
    rows = connection.execute("SELECT name, dflt_value FROM pragma_table_xinfo(?)", (table,)).fetchall()
    return {name.decode(): "NULL" if value is None else default_sql(value.decode()) for name, value in rows}


def missed(table: UserTable, columns: Sequence[str] | None, *, defaults: Mapping[str, str], whole: bool) -> str | None:
    """Which rows `o` of a table to write once more, as SQL; None for none.

    `columns` are those its triggers wrote, None when it had no triggers: then it is new, or was made anew. Of a table
    that the lake has as a `whole`, any value in a new column is news; else only what others wrote since.
    """
    if columns is None:
        return EVERYTHING
    new = [column for column in table.columns if column not in columns]
    if whole:
        tests = [f"o.{quoted(column)} IS NOT NULL" for column in new]
    elif len(table.columns) > len(columns):
        tests = [f"o.{quoted(column)} IS NOT ({defaults[column]})" for column in new]
    else:
        tests = []  # renamed; nothing was written
    return " OR ".join(tests) or None
