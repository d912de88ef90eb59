"""What SQLite keeps of tables that were dropped: the table of AUTOINCREMENT numbers, which nobody can drop by its name.

It is made with the first AUTOINCREMENT table and stays for ever. When it is empty and no such table is left, it came
with ours. It is renamed in the schema, by the way SQLite documents for repairs, and then dropped as any other table, so
that its page is free again; all within the caller's transaction. Where a build forbids that, it stays, which harms
nobody.
"""

from __future__ import annotations

import sqlite3

_RENAME = """UPDATE sqlite_schema SET name = '_evodb_gone', tbl_name = '_evodb_gone',
sql = 'CREATE TABLE _evodb_gone(name,seq)' WHERE name = 'sqlite_sequence' AND type = 'table'"""


def remove(connection: sqlite3.Connection) -> None:
    if not _is_left_over(connection):
        return
    connection.execute("SAVEPOINT _evodb_leftovers")
    try:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(_RENAME)
        connection.execute("PRAGMA writable_schema = RESET")
        connection.execute("DROP TABLE _evodb_gone")
    except sqlite3.DatabaseError:
        connection.execute("ROLLBACK TO _evodb_leftovers")
        connection.execute("PRAGMA writable_schema = RESET")
    connection.execute("RELEASE _evodb_leftovers")


def _is_left_over(connection: sqlite3.Connection) -> bool:
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone():
        return False
    # 0 is what a table has that never had a row; capture tries each of its triggers by an INSERT of none.
    connection.execute("DELETE FROM sqlite_sequence WHERE name GLOB '_evodb_*' OR seq = 0")
    used = "SELECT 1 FROM sqlite_sequence UNION ALL SELECT 1 FROM sqlite_schema WHERE upper(sql) LIKE '%AUTOINCREMENT%'"
    return connection.execute(used).fetchone() is None
