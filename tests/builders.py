"""Builders for what tests talk about: entries, batches and the rows they belong to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lakehouse.journal.accept import Source
from lakehouse.models import Child, Parent
from rpc import arrow_stream, batch, columns, entries
from rpc.batch import BatchFrame, Encoding
from rpc.entries import RawEntry

NOW_MS = 1_700_000_000_000


def entry(sequence: int, *, table: str = "orders", after: Any = None, timestamp_ms: int = NOW_MS) -> RawEntry:
    """An INSERT of row r<sequence>."""
    document = {"id": sequence} if after is None else after
    return RawEntry(sequence, timestamp_ms, 0, table.encode(), b"r%d" % sequence, b"", json.dumps(document).encode())


def run(first: int, last: int, **fields: Any) -> list[RawEntry]:
    return [entry(sequence, **fields) for sequence in range(first, last + 1)]


def frame(
    sequence: int,
    content: Sequence[RawEntry],
    *,
    encoding: Encoding = Encoding.COLUMNS,
    source: str = "shop-1",
    correlation_id: str | None = None,
    timestamp_ms: int = NOW_MS,
) -> BatchFrame:
    """A batch as the parent reads it off the wire."""
    return batch.read(wire(sequence, content, encoding, source, correlation_id, timestamp_ms))


def typed_frame(sequence: int, first: int, rows: Any) -> BatchFrame:
    """A batch of an INSERT for each row of an Arrow table, whose documents they are."""
    numbers = range(first, first + rows.num_rows)
    content = [RawEntry(number, NOW_MS, 0, b"orders", b"r%d" % number, b"") for number in numbers]
    streams = {b"orders": arrow_stream.write(rows)}
    payload = columns.encode(content, documents=range(1, rows.num_rows + 1), streams=streams)
    return frame(sequence, content)._replace(payload=payload)


def wire(
    sequence: int,
    content: Sequence[RawEntry],
    encoding: Encoding = Encoding.COLUMNS,
    source: str = "shop-1",
    correlation_id: str | None = None,
    timestamp_ms: int = NOW_MS,
) -> bytes:
    payload = columns.encode(content) if encoding is Encoding.COLUMNS else entries.payload_of(content)[0]
    return batch.encode(
        payload,
        encoding=encoding,
        entry_count=len(content),
        source=source,
        sequence=sequence,
        timestamp_ms=timestamp_ms,
        correlation_id=correlation_id,
    )


def parent(name: str = "default", **config: Any) -> Parent:
    return Parent.objects.create(name=name, config=config)


def source(of: Parent, name: str = "shop-1", *, epoch: int | None = 1) -> Source:
    """A new connection of a child: of one that keeps `epoch`, or with None of one that keeps none."""
    child, _ = Child.objects.get_or_create(parent=of, name=name)
    return Source(of.pk, child.pk, epoch, epoch is not None)
