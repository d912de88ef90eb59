"""A look at an outbox or a captured database that others are working on, without ever writing.

For whoever watches: not even the lock file is touched, so the one who drains it notices nothing, and nothing is left
beside the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rpc.errors import CaptureError, LakehouseRpcError, OutboxCorruptError
from rpc.outbox_file import FORMAT
from rpc.outbox_looking import BUSY_S, look


class Letter(NamedTuple):
    sequence: int
    entries: int
    reason: str


class View(NamedTuple):
    """An outbox at one moment. `unacked` has the entries of each batch that was cut and not acknowledged."""

    epoch: int
    last_sequence: int
    uncut: int
    unacked: dict[int, int]
    dead_letters: tuple[Letter, ...]

    @property
    def pending(self) -> int:
        return self.uncut + sum(self.unacked.values())


class Onlooker:
    def __init__(self, path: str | Path, *, busy_s: float = BUSY_S) -> None:
        self._path = Path(path)
        self._busy_s = busy_s
        self._last: View | None = None

    def look(self) -> View | None:
        """How things are; None when they are as they were at the last look."""
        with translated(self._path):
            view = look(self._path, self._view, busy_s=self._busy_s)
        if view == self._last:
            return None
        self._last = view
        return view

    def _view(self, connection: sqlite3.Connection) -> View:
        numbers = dict(_rows(connection, "SELECT key, value FROM _evodb_meta WHERE key NOT GLOB '*:*'"))
        if numbers.get("format") != FORMAT:
            raise OutboxCorruptError(f"{self._path} has outbox format {numbers.get('format')}, wanted {FORMAT}")
        last = _rows(connection, "SELECT coalesce(max(id), 0) FROM _evodb_change")[0][0]
        letters = _rows(connection, "SELECT sequence, entries, reason FROM _evodb_dead_letter ORDER BY id")
        return View(
            numbers.get("epoch", 0),
            numbers.get("last_sequence", 0),
            max(0, last - numbers.get("cut_through", 0) - numbers.get("missing", 0)),
            dict(_rows(connection, "SELECT sequence, entries FROM _evodb_batch ORDER BY sequence")),
            tuple(Letter(*row) for row in letters),
        )


def _rows(connection: sqlite3.Connection, sql: str) -> list[Any]:
    return connection.execute(sql).fetchall()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors about this file as ours."""
    try:
        yield
    except sqlite3.Error as exc:
        if "no such table: _evodb_" in str(exc):
            raise CaptureError(f"{path} is neither an outbox nor captured; `evodb capture` begins that") from exc
        if "not a database" in str(exc):
            raise OutboxCorruptError(f"{path} is not a SQLite database") from exc
        raise LakehouseRpcError(f"{path}: {exc}") from exc
