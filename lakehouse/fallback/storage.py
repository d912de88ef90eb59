"""FallbackStorage: rows that cannot be written to their tables now, bounded, and never given up for newer ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.ipc

from lakehouse.errors import LakehouseError
from lakehouse.fallback.objects import DOStorage, StoredRows, TableName
from rpc.errors import BufferOverflowError

__all__ = ["FALLBACK_BYTES_MAX", "FallbackDamaged", "FallbackStorage", "WaitingRows"]

FALLBACK_BYTES_MAX = 1024 * 1024 * 1024
KEYS_PER_LOOK = 100
ZSTD = pa.ipc.IpcWriteOptions(compression="zstd")


class FallbackDamaged(LakehouseError):
    """Rows that wait cannot be read any more."""

    code = "FALLBACK_DAMAGED"


@dataclass(frozen=True, slots=True)
class WaitingRows:
    """Rows of one table. `stamp` is theirs alone and stays, so that a writer knows them when they come again."""

    stamp: int
    stored: StoredRows

    def read(self) -> Any:
        """As an Arrow table. Raises FallbackDamaged."""
        try:
            with pa.ipc.open_stream(pa.py_buffer(self.stored.payload)) as reader:
                return reader.read_all()
        except (pa.ArrowException, OSError, ValueError) as exc:
            raise FallbackDamaged(f"rows {self.stamp} of {self.stored.name} cannot be read: {exc}") from None


class FallbackStorage:
    """Keeps Arrow tables in a storage, at most `max_bytes` of them; what is kept stays until it is removed."""

    def __init__(self, storage: DOStorage, *, max_bytes: int = FALLBACK_BYTES_MAX, now_ms: Callable[[], int]) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}, wanted at least 1")
        self.max_bytes = max_bytes
        self._storage = storage
        self._now_ms = now_ms

    def store(self, namespace: str, table: str, rows: Any) -> Literal[True]:
        """Keep these rows (pyarrow.Table); they are durable when this returns.

        Raises BufferOverflowError when they do not fit beside what is kept; they are not kept then, all else is.
        """
        self.keep([self.pack(namespace, table, rows)])
        return True

    def pack(self, namespace: str, table: str, rows: Any) -> StoredRows:
        """As they would be kept. Takes time, so it comes before a transaction; 50 000 raw rows, 18 MB, take 31 ms."""
        name = TableName(namespace, table)
        return StoredRows(name=name, rows=rows.num_rows, payload=_stream_of(rows), created_ms=self._now_ms())

    def keep(self, packed: Sequence[StoredRows]) -> None:
        """Keep all of these, or none of them. Raises BufferOverflowError."""
        size_bytes = sum(len(one.payload) for one in packed)
        with self._storage.transaction():
            held = self._storage.total_bytes()
            if held + size_bytes > self.max_bytes:
                names = ", ".join(str(name) for name in {one.name: None for one in packed})
                raise BufferOverflowError(
                    f"the fallback holds {held} bytes, {size_bytes} more of {names} are beyond max_bytes "
                    f"({self.max_bytes}); recover first"
                )
            for one in packed:
                self._storage.put(one)

    def total_bytes(self) -> int:
        return self._storage.total_bytes()

    def has_data(self) -> bool:
        return bool(self._storage.tables())

    def pending_tables(self) -> list[TableName]:
        """The one that waits longest first."""
        return self._storage.tables()

    def oldest_first(self, name: TableName) -> Iterator[WaitingRows]:
        """What waits for a table; only one payload is in memory at a time."""
        last = 0
        while keys := self._storage.list(name, after=last, limit=KEYS_PER_LOOK):
            for last in keys:
                if (stored := self._storage.get(last)) is not None:
                    yield WaitingRows(last, stored)

    def oldest(self, name: TableName) -> WaitingRows | None:
        return next(self.oldest_first(name), None)

    def remove(self, stamp: int) -> bool:
        """These rows are in their table; whether they still waited."""
        return self._storage.delete(stamp)

    def note(self, waiting: WaitingRows, *, attempts: int, next_attempt_ms: int, error: str) -> bool:
        """Write down an attempt, unless somebody else did since `waiting` was read."""
        return self._storage.note(
            waiting.stamp,
            seen=waiting.stored.attempts,
            attempts=attempts,
            next_attempt_ms=next_attempt_ms,
            error=error,
        )


def _stream_of(rows: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=ZSTD) as writer:
        writer.write_table(rows)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream
