"""How rows of a key without a type are named in a captured database: as they were by earlier versions, or apart.

There 1, '1' and x'31' are three keys, and were one name. A name must not change under a lake that has it, so a database
goes on as it began; one that is attached for the first time notes that its names are apart.
"""

from __future__ import annotations

import sqlite3

from rpc.outbox_file import has_tables, number, set_number

NOTED = "names_apart"


def are_apart(connection: sqlite3.Connection) -> bool:
    return not has_tables(connection) or bool(number(connection, NOTED))


def keep_apart(connection: sqlite3.Connection) -> None:
    """For a database that is attached for the first time."""
    set_number(connection, NOTED, 1)
