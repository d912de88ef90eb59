"""What capture missed of a table while nobody looked: which rows to write once more after the schema changed.

Between a CREATE or ALTER TABLE and the new triggers others may have written. Capture notes which columns its triggers
write (one row of _evodb_meta, within the transaction that makes them), so that the difference tells what went by.
Columns never change their places while there are triggers, so another name in a place is a column that was renamed.
Functions over a connection and a decision; that rows are written by a snapshot is known, how is not.

What the old triggers wrote meanwhile may be wrong: it has a renamed column by its old name, and where a trigger of the
user is newer than ours, what that did stands before what it was done for; where a unique index is gone, they took rows
WITHOUT ROWID for replaced that are not. Nothing of it has been forgotten yet, for
who cuts looks before anybody can acknowledge. So each of these rows is told once more, as it is.
"""

# ruff: noqa: S608 - the names are quoted, and values never come here

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence

from rpc.capture import snapshot as snapshots
from rpc.capture import triggers
from rpc.capture.expressions import literal, quoted, row_id, row_json
from rpc.capture.snapshot import EVERYTHING
from rpc.capture.tables import UserTable, default_sql
from rpc.capture.triggers import NOW_MS
from rpc.capture.values import SNAPSHOT
from rpc.outbox_file import number

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
    added = table.columns[len(columns) :]
    if whole:
        tests = [f"o.{quoted(column)} IS NOT NULL" for column in (*renamed(table, columns), *added)]
    else:
        tests = [f"o.{quoted(column)} IS NOT ({defaults[column]})" for column in added]
    return " OR ".join(tests) or None


def plan_missed(
    connection: sqlite3.Connection, found: Iterable[UserTable], with_triggers: Collection[str], *, is_chosen: bool
) -> None:
    """Have a snapshot write what went by. Tables that somebody chose are captured from now on, unless all rows are."""
    known = noted(connection)
    if known is None:
        return
    whole = snapshots.whole(connection)
    for table in found:
        if table.name not in known and is_chosen and not number(connection, "snapshot"):
            continue  # named only now
        where = missed(
            table,
            known.get(table.name) if table.name in with_triggers else None,
            defaults=defaults(connection, table.name),
            whole=table.name in whole,
        )
        if where is not None:
            snapshots.plan(connection, table, total=None, where=where)


def renamed(table: UserTable, columns: Sequence[str]) -> list[str]:
    """The columns that had other names when the triggers were made."""
    return [now for before, now in zip(columns, table.columns, strict=False) if before != now]


def tell_again(
    connection: sqlite3.Connection, found: Iterable[UserTable], were: Mapping[str, Mapping[str, str]]
) -> None:
    """Once more what the triggers that `were` there may have told wrongly, in the transaction that renews them."""
    known = noted(connection) or {}
    for table in found:
        before = were.get(table.name)
        if before is not None and (
            "" in before
            or renamed(table, known.get(table.name, ()))
            or (table.rowid is None and before != triggers.of(table))
        ):
            _tell_again(connection, table)


def _tell_again(connection: sqlite3.Connection, table: UserTable) -> None:
    name, told = literal(table.name), f"FROM _evodb_change WHERE table_name = {literal(table.name)}"
    into = "INSERT INTO _evodb_change (timestamp_ms, operation, table_name, row_id, before, after, metadata)"
    now = f"{quoted(table.name)} AS o"
    there = (
        f"{into} SELECT {NOW_MS}, 0, {name}, {row_id(table, 'o')}, NULL, {row_json(table, 'o')},"
        f" {literal(SNAPSHOT.decode())} FROM {now} WHERE {row_id(table, 'o')} IN (SELECT row_id {told})"
    )
    gone = (
        f"{into} SELECT {NOW_MS}, 2, {name}, row_id, after, NULL, NULL FROM"
        f" (SELECT max(id), row_id, operation, after {told} GROUP BY row_id)"
        f" WHERE operation <> 2 AND row_id NOT IN (SELECT {row_id(table, 'o')} FROM {now})"
    )
    connection.execute(gone)
    connection.execute(there)
