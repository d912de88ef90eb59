"""What FallbackStorage needs of a store: values by key, in the order they came, that outlive the process. Pure."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

__all__ = ["DOStorage", "StoredRows", "TableName"]


class TableName(NamedTuple):
    namespace: str
    table: str

    def __str__(self) -> str:
        return ".".join(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """Rows of one table as bytes, and how often somebody tried to bring them there."""

    name: TableName
    rows: int
    payload: bytes
    batches: bytes = b""
    """The journal's batches the rows came in, n times u64, little-endian; empty when they came from elsewhere."""
    flush_id: int | None = None
    attempts: int = 0
    next_attempt_ms: int = 0
    last_error: str = ""
    created_ms: int


class DOStorage(Protocol):
    """Keys are given by the store, rise with every value and are never given twice."""

    def transaction(self) -> AbstractContextManager[object]:
        """All of it or nothing, and nobody else puts meanwhile."""
        ...

    def total_bytes(self) -> int:
        """Of all payloads."""
        ...

    def tables(self) -> list[TableName]:
        """Those that have values, the one that waits longest first."""
        ...

    def list(self, name: TableName, *, after: int, limit: int) -> list[int]:
        """Keys of a table above `after`, oldest first."""
        ...

    def get(self, key: int) -> StoredRows | None: ...

    def put(self, stored: StoredRows) -> int:
        """Returns the key."""
        ...

    def delete(self, key: int) -> bool:
        """Whether it was there."""
        ...

    def note(self, key: int, *, seen: int, attempts: int, next_attempt_ms: int, error: str) -> bool:
        """Write down an attempt; False when `attempts` is not what was seen any more, or the value is gone."""
        ...
