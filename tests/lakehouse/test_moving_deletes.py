"""Deletes by position under new names: each row stays deleted, and a manifest says of the file what is so."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.errors import DamagedTable
from lakehouse.moving import deletes
from lakehouse.moving.deletes import FILE_PATH_ID
from lakehouse.moving.relocation import Relocation

MOVE = Relocation("s3://old/lake", "s3://old/lake", "/srv/lake")
POSITION_ID = 2147483545


def of(rows: list[tuple[str, int]], **options: Any) -> bytes:
    schema = pa.schema(
        [
            pa.field("file_path", pa.string(), nullable=False, metadata={"PARQUET:field_id": str(FILE_PATH_ID)}),
            pa.field("pos", pa.int64(), nullable=False, metadata={"PARQUET:field_id": str(POSITION_ID)}),
        ],
        metadata={"delete-type": "position"},
    )
    out = io.BytesIO()
    columns = [pa.array([path for path, _ in rows], pa.string()), pa.array([at for _, at in rows], pa.int64())]
    pq.write_table(pa.table(columns, schema=schema), out, **options)
    return out.getvalue()


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"row_group_size": 2}, {"compression": "zstd"}])
def test_of_every_file_the_same_rows_are_deleted_and_every_reader_finds_the_columns(options: dict[str, Any]) -> None:
    rows = [("s3://old/lake/a", 0), ("s3://old/lake/a", 7), ("s3a://old/lake/b", 1), ("s3://theirs/c", 5)] * 3
    content, said = deletes.renamed(of(rows, **options), "d.parquet", MOVE.new)
    found = pq.ParquetFile(io.BytesIO(content))
    table = found.read()
    assert table.column("file_path").to_pylist() == [MOVE.new(path) for path, _ in rows]
    assert table.column("pos").to_pylist() == [at for _, at in rows]
    assert table.schema.field("file_path").type == pa.string()
    assert [field.metadata[b"PARQUET:field_id"] for field in table.schema] == [
        str(one).encode() for one in (FILE_PATH_ID, POSITION_ID)
    ]
    assert not any(field.nullable for field in table.schema)
    assert found.metadata.metadata[b"delete-type"] == b"position"
    assert said.size_bytes == len(content)


def test_the_names_it_has_lie_between_its_bounds_in_whatever_order_they_were() -> None:
    """`s3a` comes behind `s3`, and both are one folder now."""
    rows = [("s3://old/lake/z", 0), ("s3a://old/lake/a", 1)]
    _, said = deletes.renamed(of(rows), "d.parquet", MOVE.new)
    position = {"key": POSITION_ID, "value": b"\0" * 8}
    before = [{"key": FILE_PATH_ID, "value": b"s3://old/lake/z"}, position]
    file = {"lower_bounds": before, "upper_bounds": [{"key": FILE_PATH_ID, "value": b"s3b"}], "split_offsets": [4, 900]}
    assert said.entry(file | {"file_size_in_bytes": 1}) == {
        "lower_bounds": [position, {"key": FILE_PATH_ID, "value": b"/srv/lake/a"}],
        "upper_bounds": [{"key": FILE_PATH_ID, "value": b"/srv/lake/z"}],
        "split_offsets": [4],
        "file_size_in_bytes": said.size_bytes,
    }
    bare = {"lower_bounds": None, "upper_bounds": [position], "split_offsets": None}
    assert said.entry(bare) == bare | {"file_size_in_bytes": said.size_bytes}


def test_a_file_without_rows_bounds_nothing() -> None:
    content, said = deletes.renamed(of([]), "d.parquet", MOVE.new)
    assert pq.read_table(io.BytesIO(content)).num_rows == 0
    file = {"lower_bounds": [{"key": FILE_PATH_ID, "value": b"s3://old/lake/z"}]}
    assert said.entry(file) == {"lower_bounds": [], "file_size_in_bytes": len(content)}


@pytest.mark.parametrize("content", [b"", b"PAR1", of([("a", 1)])[:-9], b"no Parquet at all"])
def test_a_file_that_is_torn_is_named(content: bytes) -> None:
    with pytest.raises(DamagedTable, match=r"d\.parquet is no file of deletes: "):
        deletes.renamed(content, "d.parquet", MOVE.new)


def test_a_file_of_something_else_is_named() -> None:
    for column in ("id", "file_path"):
        out = io.BytesIO()
        pq.write_table(pa.table({column: [1, 2]}), out)
        with pytest.raises(DamagedTable, match=r"d\.parquet is no file of deletes: "):
            deletes.renamed(out.getvalue(), "d.parquet", MOVE.new)
