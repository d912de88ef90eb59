"""An entry that cannot be a row: what becomes a dead letter, made whole when it is written and not before. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rpc import arrow_stream, columns
from rpc.batch import Encoding


class Document(NamedTuple):
    """A row of the Arrow documents that came for a table, where it lies."""

    rows: Any
    number: int

    @classmethod
    def of(cls, streams: Sequence[Any], number: int | None, *, table: str) -> Document | None:
        """The one of this number, counted through all streams of its table."""
        if number is None:
            return None
        for rows in streams:
            if number < rows.num_rows:
                return cls(rows, number)
            number -= rows.num_rows
        raise AssertionError(f"no document {number} of table {table!r}")

    def stream(self) -> bytes:
        """As an Arrow stream of its own, without the columns it has no value in: a missing key and null are the same.

        One column stays in any case, for a stream without any has no rows.
        """
        row = self.rows.slice(self.number, 1)
        named = [name for name, column in zip(row.column_names, row.columns, strict=True) if not column.null_count]
        return arrow_stream.write(row.select(named or row.column_names[:1]))


class Unreadable(NamedTuple):
    """An entry that cannot be a row, whole and with the reason; `entry_index` None means its whole batch.

    `plain` is its payload but for a typed document, which has the names of all its columns with it: 112 kB of 1000
    booleans. So `payload` is made when it is asked for, and is to be forgotten then.
    """

    batch_id: int
    entry_index: int | None
    table: str
    encoding: Encoding
    plain: bytes
    reason: str
    document: Document | None = None

    @property
    def payload(self) -> bytes:
        """With everything it came with, as a batch."""
        if self.document is None:
            return self.plain
        found = columns.decode(self.plain)
        return columns.encode(found.entries(), documents=[1], streams={found.tables[0]: self.document.stream()})
