"""Capture on PostgreSQL: an outbox of tables beside the user's, filled by triggers within the user's transactions.

    attach -> triggers write entries while anybody changes a table -> cut, ack, ... as in rpc.outbox -> detach

Transactions commit in another order than they begin, so the number an entry got when it was written says nothing about
what is still to appear before it. An entry therefore gets its sequence when it is cut: a cut takes rows that are
visible, in the order they were written, out of `_evodb_change`, numbers them behind the last ones, and writes them down
as the batch they travel as, all in one transaction. What commits later is cut later, and none is skipped. Changes of
one row are in order whoever made them, for the second waits for the first one's commit before it is written.

One process at a time cuts and acknowledges. psycopg 3 is wanted, which `evodb[server]` brings.
Measured (one core, rows of 19 text columns): an INSERT in bulk takes 2.4 us a row without capture and 33 us with it; of
1000 entries a cut takes 12 ms, an ack 0.3 ms and the sums of what it acknowledges 3 ms of a busy core.
"""

# ruff: noqa: S608 - constants of ours

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import psycopg

from rpc import columns
from rpc.capture import postgres_digest as digests
from rpc.capture import postgres_sql as sql
from rpc.capture.postgres_door import PostgresDoor
from rpc.capture.values import short_name
from rpc.config import MIB
from rpc.deduplication import DEFAULT_DEDUP_CONFIG, DedupConfig
from rpc.entries import U16_MAX, RawEntry
from rpc.errors import BufferOverflowError, CaptureError
from rpc.names import is_table, table_complaint
from rpc.negotiation import PayloadEncoding
from rpc.outbox import DeadLetter, Outbox, OutboxBatch, wall_clock_ms
from rpc.outbox_meter import ENTRY_BYTES
from rpc.outbox_rows import ENTRY_BYTES_MAX, checked_bytes
from rpc.shapes import Shape

__all__ = ["PostgresCapture"]

LOCK_TIMEOUT_MS = 5000
"""What `attach` waits for a table that is in use, while others wait behind it."""
COUNT_MAX = 100_000
"""Entries are counted up to here; more of them are not worth reading them all."""

_BATCH = "INSERT INTO _evodb_batch (sequence, first, last, entries, payload) VALUES (%s, %s, %s, %s, %s)"
_APPEND = """INSERT INTO _evodb_change (timestamp_ms, operation, table_name, row_id, before, after, metadata)
VALUES (%s, %s, %s, %s, nullif(%s, ''), nullif(%s, ''), nullif(%s, ''))"""


class PostgresCapture(Outbox):
    """The changes of some tables of a PostgreSQL database, as an Outbox. Safe to call from several threads.

    `conninfo` as psycopg takes it, or a function that opens a connection.
    """

    written_by_others = True

    def __init__(
        self,
        conninfo: str | Callable[[], psycopg.Connection[Any]],
        *,
        tables: Sequence[str] = (),
        schema: str = "public",
        bytes_max: int = 1024 * MIB,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._door = PostgresDoor(conninfo, schema=schema)
        self._tables = tuple(dict.fromkeys(tables))
        self._schema = schema
        self._now_ms = now_ms
        self.path = Path(f"postgresql:{schema}")  # only for messages
        self.bytes_max = bytes_max
        self.acked_entries = 0

    def attach(self) -> list[str]:
        """Capture the tables from now on and return their names; done again it only follows what changed in them.

        Raises CaptureError when a table cannot be captured; then nothing was changed.
        """
        with self._door.writing() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('_evodb attach', 0))")
            connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            wanted = {name: _arguments(connection, self._schema, name) for name in self._tables}
            self._make_tables(connection)
            connection.execute(sql.functions(self._schema))
            attached = self._attached(connection)
            for name in attached.keys() - wanted.keys():
                connection.execute(sql.no_triggers(self._schema, name))
            for name, given in wanted.items():
                if [f"({given})" in definition for definition in attached.get(name, [])] != [True, True]:
                    connection.execute(sql.triggers(self._schema, name, given).encode())
        return list(wanted)

    def _make_tables(self, connection: psycopg.Connection[Any]) -> None:
        is_new, is_counting = not self._door.has_tables(), digests.is_used(connection)
        connection.execute(sql.tables(self._schema))
        if is_new:
            self._door.set_number("epoch", self._now_ms())
        elif not is_counting:
            digests.begin(connection)

    def _attached(self, connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
        """The triggers of ours by table."""
        found: dict[str, list[str]] = {}
        for table, definition in connection.execute(sql.ATTACHED, (self._schema,)):
            found.setdefault(table, []).append(definition)
        return found

    def detach(self, *, force: bool = False) -> None:
        """Remove every trigger, function and table of ours. Raises CaptureError while changes wait, unless `force`."""
        with self._door.draining() as connection:
            if not self._door.has_tables():
                return
            waiting = self.pending_entries + sum(letter.entries for letter in self.dead_letters())
            if waiting and not force:
                raise CaptureError(
                    f"{waiting} changes have not reached the parent; let them drain first, "
                    "or give them up with detach(force=True)"
                )
            for name in self._attached(connection):
                connection.execute(sql.no_triggers(self._schema, name))
            for function in sql.FUNCTIONS:
                connection.execute(f"DROP FUNCTION IF EXISTS {function}")
            for table in sql.TABLES:
                connection.execute(f"DROP TABLE IF EXISTS {table}")

    @property
    def pending_entries(self) -> int:
        return self.uncut_entries() + int(self._door.one("SELECT coalesce(sum(entries), 0) FROM _evodb_batch"))

    @property
    def pending_batches(self) -> int:
        return int(self._door.one("SELECT count(*) FROM _evodb_batch"))

    @property
    def pending_bytes(self) -> int:
        """About; of the uncut entries those that are counted, as PostgreSQL stores them."""
        batches = self._door.one("SELECT coalesce(sum(octet_length(payload)), 0) FROM _evodb_batch")
        return int(batches) + self.uncut_bytes()

    def uncut_bytes(self) -> int:
        uncut = f"(SELECT c FROM _evodb_change c ORDER BY id LIMIT {COUNT_MAX}) AS c"
        return int(self._door.one(f"SELECT coalesce(sum(pg_column_size(c)), 0) FROM {uncut}"))

    def kept_encodings(self) -> set[PayloadEncoding]:
        return set()

    def uncut_entries(self) -> int:
        """How many entries are in no batch yet, counted up to 100 000."""
        return int(self._door.one(f"SELECT count(*) FROM (SELECT 1 FROM _evodb_change LIMIT {COUNT_MAX}) AS c"))

    def changed(self) -> bool:
        return bool(self._door.one("SELECT EXISTS (SELECT 1 FROM _evodb_change)"))

    def append(
        self,
        entries: Iterable[RawEntry],
        *,
        wait_s: float | None = None,
        lsns: Sequence[int | None] | None = None,
        dedup: DedupConfig | None = DEFAULT_DEDUP_CONFIG,
    ) -> int:
        """As an outbox does, but nothing waits for room here and no entry has an lsn: the database has its own."""
        if lsns is not None or wait_s is not None:
            raise CaptureError("a captured PostgreSQL takes no lsn and does not wait; send these with an outbox file")
        given = list(entries)
        size_bytes = sum(map(checked_bytes, given))
        with self._door.writing() as connection:
            held = self.pending_bytes
            if held + size_bytes > self.bytes_max:
                raise BufferOverflowError(
                    f"the outbox holds {held} bytes, {size_bytes} more would pass bytes_max ({self.bytes_max}); "
                    "nothing of this call was kept. Try again after the next ack, or raise bytes_max"
                )
            self._insert_entries(connection, given)
        return len(given)

    def cut(self, *, entries_max: int, bytes_max: int, shape: Shape | None = None) -> OutboxBatch | None:
        """As an outbox does; a batch is kept whole here, and always in columns."""
        with self._door.draining():
            while (batch := self._cut_visible(entries_max, bytes_max)) is not None:
                if len(batch.payload) <= ENTRY_BYTES_MAX + 2 * U16_MAX:
                    return batch
                self.reject(batch.sequence, f"{len(batch.payload)} bytes; at most {ENTRY_BYTES_MAX} fit a message")
        return None

    def unacked(self, *, after: int = 0, limit: int = 100) -> list[OutboxBatch]:
        with self._door.draining() as connection:
            rows = connection.execute(
                "SELECT sequence, payload, entries, first, last FROM _evodb_batch WHERE sequence > %s"
                " ORDER BY sequence LIMIT %s",
                (after, limit),
            )
            return [OutboxBatch(sequence, bytes(payload), *rest) for sequence, payload, *rest in rows]

    def reject(self, sequence: int, reason: str) -> None:
        with self._door.draining() as connection:
            connection.execute(
                "WITH gone AS (DELETE FROM _evodb_batch WHERE sequence = %s RETURNING sequence, entries, payload)"
                " INSERT INTO _evodb_dead_letter (sequence, reason, time_ms, entries, payload)"
                " SELECT sequence, %s, %s, entries, payload FROM gone",
                (sequence, reason.replace("\0", ""), self._now_ms()),
            )

    def dead_letters(self) -> list[DeadLetter]:
        with self._door.writing() as connection:
            rows = connection.execute(
                "SELECT sequence, reason, time_ms, entries, payload FROM _evodb_dead_letter ORDER BY id"
            )
            return [DeadLetter(number, why, when, n, bytes(payload)) for number, why, when, n, payload in rows]

    def revive(self, sequence: int) -> int:
        with self._door.draining() as connection:
            rows = connection.execute(
                "WITH gone AS (DELETE FROM _evodb_dead_letter WHERE sequence = %s RETURNING id, payload)"
                " SELECT payload FROM gone ORDER BY id",
                (sequence,),
            ).fetchall()
            entries = [entry for (payload,) in rows for entry in columns.decode(bytes(payload)).entries()]
            self._insert_entries(connection, entries)
        return len(entries)

    def drop_dead_letter(self, sequence: int) -> None:
        with self._door.draining() as connection:
            connection.execute("DELETE FROM _evodb_dead_letter WHERE sequence = %s", (sequence,))

    def renew_epoch(self, *, resume_after: int = 0, above: int = 0) -> int:
        """Begin a new, higher epoch; the batches there are get its first numbers, behind `resume_after`."""
        with self._door.draining() as connection:
            epoch = max(self.epoch + 1, above + 1, self._now_ms())
            # Two steps, for a number must not be taken while another batch still has it.
            connection.execute("UPDATE _evodb_batch SET sequence = -sequence")
            numbered = "SELECT sequence, row_number() OVER (ORDER BY sequence DESC) AS n FROM _evodb_batch"
            moved = connection.execute(
                f"UPDATE _evodb_batch b SET sequence = %s + n FROM ({numbered}) AS o WHERE o.sequence = b.sequence",
                (resume_after,),
            )
            self._door.set_number("last_sequence", resume_after + moved.rowcount)
            self._door.set_number("epoch", epoch)
        return epoch

    def close(self) -> None:
        self._door.close()

    def _number(self, key: str) -> int:
        return self._door.number(key)

    def _insert_entries(self, connection: psycopg.Connection[Any], entries: list[RawEntry]) -> None:
        if entries:
            rows = [(*entry[1:3], *(_text(field) for field in entry[3:])) for entry in entries]
            connection.cursor().executemany(_APPEND, rows)

    def _cut_visible(self, entries_max: int, bytes_max: int) -> OutboxBatch | None:
        with self._door.writing() as connection:
            rows = connection.execute(sql.CUT.format(entry=ENTRY_BYTES), (entries_max, bytes_max)).fetchall()
            if not rows:
                return None
            first, sequence = self._number("last_entry") + 1, self.last_sequence + 1
            entries = [_entry(number, row) for number, row in enumerate(sorted(rows), first)]
            payload, last = columns.encode(entries), first + len(entries) - 1
            connection.execute(_BATCH, (sequence, first, last, len(entries), payload))
            self._door.set_number("last_entry", last)
            self._door.set_number("last_sequence", sequence)
        return OutboxBatch(sequence, payload, len(entries), first, last)

    def _forget(self, which: str, sequence: int) -> None:
        with self._door.draining() as connection:
            deleted = f"DELETE FROM _evodb_batch WHERE {which.replace('?', '%s')} RETURNING entries, payload"
            gone = connection.execute(deleted, (sequence,)).fetchall()
            digests.acked(connection, [payload for _, payload in gone], epoch=self.epoch)
            self.acked_entries += sum(entries for entries, _ in gone)


def _arguments(connection: psycopg.Connection[Any], schema: str, table: str) -> str:
    if not is_table(table.encode()):
        raise CaptureError(table_complaint(table.encode()))
    found = connection.execute(sql.COLUMNS, (schema, table)).fetchall()
    if not found:
        raise CaptureError(f"there is no table {table!r} in schema {schema!r}; create it before it is captured")
    keys = [name for name, _, place in sorted(found, key=lambda row: row[2]) if place >= 0]
    if not keys:
        raise CaptureError(f"table {table!r} has no primary key, so its rows cannot be named; give it one")
    return sql.arguments(table, keys=keys, blobs=[name for name, is_blob, _ in found if is_blob])


def _entry(number: int, row: tuple[Any, ...]) -> RawEntry:
    _, timestamp_ms, operation, *texts = row
    table, row_id, *documents = ((text or "").encode() for text in texts)
    return RawEntry(number, timestamp_ms, operation, table, short_name(row_id), *documents)


def _text(field: bytes) -> str:
    try:
        return field.decode().replace("\0", "\ufffd")
    except UnicodeDecodeError as exc:
        raise CaptureError(f"{field[:40]!r} is not UTF-8, PostgreSQL keeps nothing else: {exc}") from None
