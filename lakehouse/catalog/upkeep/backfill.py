"""Values of a key move from `_rest` into the column it has become, file by file, while flushes go on.

A file is read for its `_rest` alone first, and written anew only when a value in it fits. What does not fit stays where
it is, so no value is ever in neither place. The table's keeper exchanges files as compaction does: in commits that are
made anew when a flush was faster, and whose rows are the same but for these two columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io import FileIO
from pyiceberg.table import Table

from lakehouse import memory
from lakehouse.catalog import evolution
from lakehouse.catalog.staging import Change
from lakehouse.catalog.upkeep import compaction
from lakehouse.catalog.upkeep.compaction import Terms
from lakehouse.catalog.upkeep.piles import Small
from lakehouse.catalog.upkeep.reading import told
from lakehouse.catalog.upkeep.rewriting import BUFFER_BYTES
from lakehouse.catalog.upkeep.tending import Tender
from lakehouse.errors import CommitConflict, SchemaMismatch
from lakehouse.flush import exact, values
from lakehouse.flush.names import Names
from rpc.entries import dump_value

REST = "_rest"
FILES_AT_ONCE = 20
"""Exchanged in one commit."""
READ_ROWS = 20_000


@dataclass(slots=True)
class Moved:
    """Values, and the files they were in."""

    values: int = 0
    files: int = 0
    left: int = 0
    """Values that do not fit, and stay in `_rest`."""
    looked: set[str] = field(default_factory=set, repr=False)
    """Paths of files that need no other look."""

    def __str__(self) -> str:
        left = f"; {self.left} values do not fit and stay in {REST}" if self.left else ""
        return f"{self.values} values moved from {REST} in {self.files} files{left}"


def make_column(keeper: Tender, name: str, kind: Any, *, attempts_max: int) -> None:
    """Give the table this column, or make the one it has wide enough. Raises SchemaMismatch, CommitConflict."""
    for attempt in range(1, attempts_max + 1):
        begun = keeper.begin()
        table = begun.table
        if why := compaction.refusal(table, keeper, compaction.manifests_of(table)):
            raise SchemaMismatch(f"{keeper.name}: {why}")
        change = Change(table)
        wanted = evolution.changes(table.schema(), _with(table, name, kind))
        if not wanted:
            return
        with change.update_schema() as update:
            for path, type_ in wanted.widened.items():
                update.update_column(path, type_)
            for path, type_ in wanted.added.items():
                update.add_column(path, type_)
        try:
            with told(f"the metadata of {keeper.name} cannot be written"):
                begun.commit(change)
        except CommitConflict:
            if attempt == attempts_max:
                raise
        else:
            return


def _with(table: Table, name: str, kind: Any) -> pa.Schema:
    fields = table.schema().fields
    columns = [column.name for column in fields]
    nested = {column.name for column in fields if not column.field_type.is_primitive}
    if not Names(columns, nested=nested).is_free(name):
        raise SchemaMismatch(
            f"{name!r:.100} cannot be a column: it is empty, too long, begins with '_', has control characters, or is "
            "too close to a column there is; its values stay in _rest"
        )
    return pa.schema([(name, kind)])


def fill(keeper: Tender, name: str, terms: Terms, moved: Moved) -> None:
    """Move what fits, in files that need a look. Raises CommitConflict: some of them need another one."""
    with told(f"files of {keeper.name} cannot be read or written"):
        while True:
            keeper.renew()
            table = keeper.load()
            if name not in table.schema().column_names:
                raise SchemaMismatch(f"{keeper.name} has no column {name!r}; somebody dropped it meanwhile")
            filler = _Filler(table, name)
            found = list(islice(_worth(table, filler, moved), FILES_AT_ONCE))
            if not found:
                return
            old = list(compaction.described(table, [file for file, _ in found]))
            new = [
                one
                for file in old
                for one in compaction.rewritten(table, [file], file.record_count, terms, filler.change)
            ]
            compaction.exchange(keeper, old, new, terms)
            moved.looked.update(file.file_path for file in [*old, *new])
            moved.values, moved.files = moved.values + filler.moved, moved.files + len(old)
            moved.left += sum(left for _, left in found)
            memory.give_back()


def _worth(table: Table, filler: _Filler, moved: Moved) -> Iterator[tuple[Small, int]]:
    """Files with a value that fits, and how many do not; the others are looked at once."""
    for file in compaction.files(table, compaction.manifests_of(table)):
        if file.path not in moved.looked:
            fitting, left = filler.count(table.io, file.path)
            if fitting:
                yield file, left
            else:
                moved.looked.add(file.path)
                moved.left += left


class _Filler:
    """Of one column as its table has it now."""

    def __init__(self, table: Table, name: str) -> None:
        schema = table.schema()
        self._key, self._text = name, json.dumps(name, ensure_ascii=False)
        self._at = [column.name for column in schema.fields].index(name)
        self._kind = evolution.arrow_schema(schema).field(self._at).type
        self.moved = 0

    def count(self, io: FileIO, path: str) -> tuple[int, int]:
        """How many values of a file fit, and how many do not."""
        fitting = left = 0
        with io.new_input(path).open() as source, pq.ParquetFile(cast(Any, source), buffer_size=BUFFER_BYTES) as file:
            if REST not in file.schema_arrow.names:
                return 0, 0
            for batch in file.iter_batches(batch_size=READ_ROWS, columns=[REST], use_threads=False):
                members = self._members(batch.column(0))
                array = self._fitted(members)
                fitting += len(array) - array.null_count
                left += array.null_count
        return fitting, left

    def change(self, batch: Any) -> Any:
        """The rows with what fits in the column, and without it in `_rest`."""
        names, columns = batch.schema.names, list(batch.columns)
        rest, column = columns[names.index(REST)], columns[self._at]
        members = self._members(rest)
        array = self._fitted(members)
        found = {
            row: value
            for (row, _), value in zip(members, array.to_pylist(), strict=True)
            if value is not None and not column[row].is_valid
        }
        if not found:
            return batch
        self.moved += len(found)
        texts, cells = rest.to_pylist(), pa.array([found.get(row) for row in range(len(batch))], self._kind)
        for row, inner in members:
            if row in found:
                texts[row] = _without(inner, self._key)
        columns[names.index(REST)] = pa.array(texts, rest.type)
        columns[self._at] = pc.coalesce(column, cells.cast(column.type))
        return pa.RecordBatch.from_arrays(columns, schema=batch.schema)

    def _members(self, rest: Any) -> list[tuple[int, dict[str, Any]]]:
        """The rows that have the key in `_rest`, and all that is there."""
        rows = pc.indices_nonzero(pc.fill_null(pc.match_substring(rest, self._text), False)).to_pylist()
        found = []
        for row in rows:
            try:
                members = exact.split(rest[row].as_py().encode())
            except exact.NotJson:
                continue
            if members and members.get(self._key, b"null") != b"null":
                found.append((row, members))
        return found

    def _fitted(self, members: list[tuple[int, dict[str, Any]]]) -> Any:
        """One value for each of these rows, null where it does not fit."""
        texts = pa.array([bytes(inner[self._key]) for _, inner in members], pa.binary())
        array = values.fit(texts, self._kind).array
        if array is None:
            return pa.nulls(len(texts), self._kind)
        return array if array.type == self._kind else _narrow(array, self._kind)


def _narrow(array: Any, kind: Any) -> Any:
    """Values that would need a wider column do not fit this one."""
    cells = []
    for value in array.to_pylist():
        try:
            cells.append(pa.scalar(value, kind).as_py())
        except (pa.ArrowInvalid, OverflowError):
            cells.append(None)
    return pa.array(cells, kind)


def _without(members: dict[str, Any], key: str) -> str | None:
    left = [f"{dump_value(name).decode()}:{bytes(value).decode()}" for name, value in members.items() if name != key]
    return "{" + ",".join(left) + "}" if left else None
