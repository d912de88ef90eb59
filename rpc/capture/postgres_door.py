"""The door to one PostgreSQL schema: a connection for several threads, short transactions, and its errors as ours.

A lost connection is opened again by the next call; a closed one is not, for a call that comes late would keep it and
the lock for good. Who drains holds an advisory lock of the session, so that it is free again when the process or its
connection is gone. Of the tables only the one of numbers is known here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.types.string import TextLoader

from rpc.capture.postgres_sql import quoted
from rpc.errors import CaptureError, LakehouseRpcError, OutboxClosedError
from rpc.outbox_file import OutboxBusyError


class _Lenient(TextLoader):
    """Text of a database without an encoding, where psycopg gives bytes."""

    def load(self, data: bytes | bytearray | memoryview) -> str:
        return bytes(data).decode(errors="replace")


class PostgresDoor:
    """`conninfo` as psycopg takes it, or a function that opens a connection."""

    def __init__(self, conninfo: str | Callable[[], psycopg.Connection[Any]], *, schema: str) -> None:
        self._open = conninfo if callable(conninfo) else lambda: psycopg.connect(conninfo)
        self._schema = schema
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None
        self._is_inside = False
        self._is_draining = False
        self._is_closed = False

    @contextmanager
    def writing(self) -> Iterator[psycopg.Connection[Any]]:
        """One transaction, kept whole or not at all; within another one a part of it."""
        with self._lock, self._translated():
            connection = self._connected()
            if self._is_inside:
                yield connection
                return
            self._is_inside = True
            try:
                with connection.transaction():
                    yield connection
            finally:
                self._is_inside = False

    @contextmanager
    def draining(self) -> Iterator[psycopg.Connection[Any]]:
        """As `writing`, for calls that only one process at a time may make."""
        with self.writing() as connection:
            if not self._is_draining:
                key = f"_evodb {self._schema}"
                taken = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (key,)).fetchone()
                if taken != (True,):
                    raise OutboxBusyError(
                        f"the changes of schema {self._schema} are being drained by somebody else; stop that one first"
                    )
                self._is_draining = True
            yield connection

    def one(self, query: str, *values: object) -> Any:
        """The first value of the first row."""
        with self.writing() as connection:
            row = connection.execute(query, values).fetchone()
            assert row is not None
            return row[0]

    def number(self, key: str) -> int:
        return int(self.one("SELECT coalesce((SELECT value FROM _evodb_meta WHERE key = %s), 0)", key))

    def set_number(self, key: str, value: int) -> None:
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO _evodb_meta VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, value),
            )

    def has_tables(self) -> bool:
        return self.one("SELECT to_regclass('_evodb_meta')") is not None

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                with suppress(psycopg.Error):  # a session may live on a little after its connection
                    self._connection.execute("SELECT pg_advisory_unlock_all()")
                self._connection.close()
            self._connection, self._is_draining, self._is_closed = None, False, True

    def _connected(self) -> psycopg.Connection[Any]:
        if self._is_closed:
            raise OutboxClosedError(
                f"the changes of schema {self._schema} are closed; nothing of this call was kept. Open them again"
            )
        if self._connection is None:
            connection = self._open()
            connection.autocommit = True
            if connection.info.parameter_status("client_encoding") == "SQL_ASCII":
                for kind in ("text", "name"):
                    connection.adapters.register_loader(kind, _Lenient)
            connection.execute(f"SET search_path = {quoted(self._schema)}, pg_temp")
            self._connection = connection
        return self._connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.UndefinedTable as exc:
            raise CaptureError("this database is not captured; call attach() first") from exc
        except psycopg.OperationalError as exc:
            if self._connection is not None and self._connection.closed:
                self._connection, self._is_draining = None, False
            raise OutboxBusyError(f"PostgreSQL: {exc}; nothing was changed, try again") from exc
        except psycopg.Error as exc:
            raise LakehouseRpcError(f"PostgreSQL: {exc}") from exc
