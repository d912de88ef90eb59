"""What a child had acknowledged, counted by epoch and table: how many entries, and the sum of their digests.

The sums of a batch are made and written down when it is cut, and added to those of its epoch in the transaction that
forgets the batch. So they are true whenever somebody looks, and whoever loses an ack loses its sums with it. What is
rejected, dropped or uncut again is not in them; what is sent again in a new epoch counts there.

Functions over a connection, within the caller's transaction. A file that was used before there were sums notes behind
which entry they begin.
Measured (one core, 1000 entries of 19 columns): 0.6 ms of a cut of 4.3 ms, 0.2 ms of an ack of 1.4 ms.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from rpc import entry_digest
from rpc.entry_digest import MODULUS, Sum, Sums
from rpc.outbox_file import number, set_number
from rpc.verification import Delivered

TABLES = {
    "_evodb_batch_sum": "sequence INTEGER PRIMARY KEY, sums BLOB NOT NULL",
    "_evodb_delivered": """epoch INTEGER NOT NULL, table_name TEXT NOT NULL, entries INTEGER NOT NULL,
        digest INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (epoch, table_name)""",
}
"""The tables a file has once it cut a batch."""

SUMMED_AFTER, SUMMED_EPOCH = "summed_after", "summed_epoch"
"""Where the sums of a file begin that was used before: behind which entry, in which epoch."""

TYPED = "typed:"
"""Begins the key of a table that sent typed documents; the epoch and the table's name follow."""

_ONE = "SELECT entries, digest, first, last FROM _evodb_delivered WHERE epoch = ? AND table_name = ?"
_SIGN = 2**63


def put(connection: sqlite3.Connection, sequence: int, sums: Sums) -> None:
    """Note the sums of a batch that is cut."""
    connection.execute("INSERT OR REPLACE INTO _evodb_batch_sum VALUES (?, ?)", (sequence, entry_digest.dump(sums)))


def note_typed(connection: sqlite3.Connection, tables: Iterable[str]) -> None:
    """A batch that was cut now has typed documents of these tables."""
    epoch = number(connection, "epoch")
    for table in tables:
        set_number(connection, f"{TYPED}{epoch}:{table}", 1)


def _typed(connection: sqlite3.Connection) -> frozenset[tuple[int, str]]:
    rows = connection.execute("SELECT key FROM _evodb_meta WHERE key GLOB ?", (f"{TYPED}*",)).fetchall()
    keys = (key.decode() if isinstance(key, bytes) else key for (key,) in rows)
    parts = (key.removeprefix(TYPED).partition(":") for key in keys)
    return frozenset((int(epoch), table) for epoch, _, table in parts)


def prepare(connection: sqlite3.Connection) -> None:
    """What the first cut of a file needs, before it is written down."""
    if is_used(connection):
        return
    for name, definition in TABLES.items():
        connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({definition})")
    if number(connection, "last_sequence"):
        set_number(connection, SUMMED_AFTER, number(connection, "cut_through"))
        set_number(connection, SUMMED_EPOCH, number(connection, "epoch"))


def is_used(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = '_evodb_delivered'").fetchone() is not None


def acked(connection: sqlite3.Connection, which: str, sequence: int) -> None:
    """Add the sums of these batches to those of their epoch."""
    if not is_used(connection):
        return
    found = connection.execute(f"SELECT sums FROM _evodb_batch_sum WHERE {which}", (sequence,)).fetchall()  # noqa: S608
    add(connection, number(connection, "epoch"), entry_digest.merged(*(entry_digest.load(sums) for (sums,) in found)))
    connection.execute(f"DELETE FROM _evodb_batch_sum WHERE {which}", (sequence,))  # noqa: S608 - ours


def forget(connection: sqlite3.Connection, sequence: int) -> None:
    """This batch is none any more, and was not acknowledged."""
    if is_used(connection):
        connection.execute("DELETE FROM _evodb_batch_sum WHERE sequence = ?", (sequence,))


def forget_all(connection: sqlite3.Connection) -> None:
    if is_used(connection):
        connection.execute("DELETE FROM _evodb_batch_sum")


def add(connection: sqlite3.Connection, epoch: int, sums: Sums) -> None:
    for table, one in sums.items():
        known = connection.execute(_ONE, (epoch, table)).fetchone()
        both = one if known is None else _sum(known) + one
        row = (epoch, table, both.entries, signed(both.digest), both.first, both.last)
        connection.execute("INSERT OR REPLACE INTO _evodb_delivered VALUES (?, ?, ?, ?, ?, ?)", row)


def of_epochs(connection: sqlite3.Connection) -> dict[int, Sums]:
    found: dict[int, Sums] = {}
    for epoch, table, *fields in connection.execute("SELECT * FROM _evodb_delivered").fetchall():
        name = table.decode() if isinstance(table, bytes) else table
        found.setdefault(epoch, {})[name] = _sum(fields)
    return found


def _sum(fields: Sequence[int]) -> Sum:
    entries, digest, first, last = fields
    return Sum(entries, digest % MODULUS, first, last)


def delivered(connection: sqlite3.Connection) -> Delivered:
    """How things are now."""
    used = is_used(connection)
    batches = connection.execute("SELECT sequence FROM _evodb_batch").fetchall()
    unacked: dict[int, Sums] = {sequence: {} for (sequence,) in batches}
    if used:
        rows = connection.execute("SELECT sequence, sums FROM _evodb_batch_sum").fetchall()
        unacked |= {sequence: entry_digest.load(sums) for sequence, sums in rows}
    last = connection.execute("SELECT max(id) FROM _evodb_change").fetchone()[0] or 0
    cut_through = number(connection, "cut_through")
    letters = connection.execute("SELECT coalesce(sum(entries), 0) FROM _evodb_dead_letter").fetchone()[0]
    last_sequence = number(connection, "last_sequence")
    older = number(connection, SUMMED_AFTER) if used else cut_through * bool(last_sequence)
    return Delivered(
        epoch=number(connection, "epoch"),
        last_sequence=last_sequence,
        sums=of_epochs(connection) if used else {},
        unacked=unacked,
        uncut=max(0, last - cut_through - number(connection, "missing")),
        dead_letters=letters,
        summed_after=older or None,
        summed_epoch=number(connection, SUMMED_EPOCH if used else "epoch"),
        typed=_typed(connection),
    )


def signed(digest: int) -> int:
    """As SQLite's 64 bits hold it."""
    return digest - MODULUS if digest >= _SIGN else digest
