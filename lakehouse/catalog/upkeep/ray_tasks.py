"""What is done on the machines of a Ray cluster: reading a share of a pile, and writing rows as files.

It imports neither Django nor a setting: these machines have our code and the way to the store, and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from daft import Schema
from daft.io.source import DataSource, DataSourceTask
from daft.recordbatch import RecordBatch
from pyiceberg.manifest import DataFile
from pyiceberg.schema import sanitize_column_names
from pyiceberg.table.metadata import TableMetadata

from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.upkeep import rewriting
from lakehouse.catalog.upkeep.exactly import same
from lakehouse.errors import NotKept


@dataclass(frozen=True)
class Job:
    """What every task has to know."""

    metadata: TableMetadata
    properties: dict[str, str]
    """Of the store; the keys are among them."""
    example: DataFile
    target_bytes: int

    @cached_property
    def schema(self) -> Any:
        return sanitize_column_names(self.metadata.schema())

    @cached_property
    def columns(self) -> Any:
        """As Arrow has them."""
        return rewriting.columns(self.schema)

    @property
    def order(self) -> list[str]:
        return rewriting.order(self.metadata)

    def io(self) -> DurableFileIO:
        return DurableFileIO(self.properties)


def not_kept(columns: Any) -> list[str]:
    """Columns whose type comes back from Daft as another one, or not at all."""
    return [field.name for field in columns if not _is_kept(field)]


def _is_kept(field: Any) -> bool:
    """By way of an empty column, for text comes back as large text. Of types it does not know Daft panics."""
    if not _is_plain(field.type):
        return False
    empty = pa.schema([field]).empty_table()
    try:
        return bool(_there_and_back(empty).schema.equals(empty.schema))
    except (ArithmeticError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False


def _is_plain(kind: Any) -> bool:
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return not isinstance(kind, pa.BaseExtensionType) and all(_is_plain(one) for one in inner)


def _there_and_back(table: Any) -> Any:
    return RecordBatch.from_arrow_table(table).to_arrow_table().cast(table.schema)


class Pile(DataSource):  # type: ignore[misc]  # not installed where types are checked
    """The rows of some files; each share is read by a task."""

    def __init__(self, job: Job, shares: Sequence[Sequence[str]]) -> None:
        self._job, self._shares = job, shares

    @property
    def name(self) -> str:
        return "evodb compaction"

    @property
    def schema(self) -> Schema:
        return Schema.from_pyarrow_schema(self._job.columns)

    async def get_tasks(self, pushdowns: Any) -> AsyncIterator[DataSourceTask]:
        for share in self._shares:
            yield Share(self._job, share)


class Share(DataSourceTask):  # type: ignore[misc]
    def __init__(self, job: Job, paths: Sequence[str]) -> None:
        self._job, self._paths = job, paths

    @property
    def schema(self) -> Schema:
        return Schema.from_pyarrow_schema(self._job.columns)

    async def read(self) -> AsyncIterator[RecordBatch]:
        """Rows that Daft would not give back bit by bit end the job."""
        io = self._job.io()
        for path in self._paths:
            for batch in rewriting.read(io.new_input(path), self._job.metadata, self._job.schema):
                table = pa.Table.from_batches([batch])
                if not same(table, _there_and_back(table)):
                    raise NotKept(f"Daft changes rows of {path}")
                yield RecordBatch.from_arrow_table(table)


def write(job: Job, tables: Iterable[Any]) -> list[DataFile]:
    """These rows, Daft's tables in their order, as files that are on the disk."""
    io = job.io()
    writer = rewriting.Writer(job.metadata, job.schema, job.example, io, job.target_bytes)
    written = list(writer.write(_arrow(job, tables)))
    io.settle()
    return written


def _arrow(job: Job, tables: Iterable[Any]) -> Iterator[Any]:
    for table in tables:
        if len(table):
            yield table.to_arrow().cast(job.columns)
