"""A look at an outbox or a captured database that others are working on, without ever writing.

For whoever watches: not even the lock file is touched, so the one who drains it notices nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from rpc.errors import CaptureError, LakehouseRpcError, OutboxCorruptError
from rpc.outbox_file import FORMAT


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
    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._version = -1
        with translated(self._path):
            self._connection = sqlite3.connect(
                f"{self._path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def look(self) -> View | None:
        """How things are; None when nobody wrote since the last look."""
        with translated(self._path):
            version = self._connection.execute("PRAGMA data_version").fetchone()[0]
            if version == self._version:
                return None
            self._connection.execute("BEGIN")
            try:
                view = self._view()
            finally:
                self._connection.execute("ROLLBACK")
            self._version = version
            return view

    def _view(self) -> View:
        numbers = dict(self._rows("SELECT key, value FROM _evodb_meta WHERE key NOT GLOB '*:*'"))
        if numbers.get("format") != FORMAT:
            raise OutboxCorruptError(f"{self._path} has outbox format {numbers.get('format')}, wanted {FORMAT}")
        last = self._rows("SELECT coalesce(max(id), 0) FROM _evodb_change")[0][0]
        letters = self._rows("SELECT sequence, entries, reason FROM _evodb_dead_letter ORDER BY id")
        return View(
            numbers.get("epoch", 0),
            numbers.get("last_sequence", 0),
            max(0, last - numbers.get("cut_through", 0) - numbers.get("missing", 0)),
            dict(self._rows("SELECT sequence, entries FROM _evodb_batch ORDER BY sequence")),
            tuple(Letter(*row) for row in letters),
        )

    def _rows(self, sql: str) -> list[Any]:
        with closing(self._connection.execute(sql)) as found:
            return found.fetchall()


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
