"""Deletes by position: Parquet files that say of which file which rows are gone, with other names of those files. Pure.

Format: https://iceberg.apache.org/spec/#position-delete-files
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.errors import DamagedTable

FILE_PATH, FILE_PATH_ID = "file_path", 2147483546
FIRST_ROW_GROUP = 4
"""Where it begins, behind the magic word."""


@dataclass(frozen=True, slots=True)
class Deletes:
    """`first` and `last` are the names between which all of them are; nothing when there are none."""

    size_bytes: int
    first: str
    last: str

    def entry(self, file: dict[str, Any]) -> dict[str, Any]:
        """What a manifest says of it. Bounds of before may have been cut, or be of several spellings of a place."""
        said: dict[str, Any] = {"file_size_in_bytes": self.size_bytes}
        bounds = {"lower_bounds": self.first, "upper_bounds": self.last}
        said |= {name: _bounds(file[name], path) for name, path in bounds.items() if file.get(name) is not None}
        return file | said | ({"split_offsets": [FIRST_ROW_GROUP]} if file.get("split_offsets") else {})


def renamed(content: bytes, name: str, new: Callable[[str], str]) -> tuple[bytes, Deletes]:
    """Raises DamagedTable, and what `new` raises."""
    try:
        rows = pq.read_table(pa.BufferReader(content), use_threads=False, read_dictionary=[FILE_PATH])
        chunks: Any = rows.column(FILE_PATH).chunks
        names = [[new(path) for path in chunk.dictionary.to_pylist()] for chunk in chunks]
    except (pa.ArrowException, KeyError, AttributeError, OSError) as exc:
        raise DamagedTable(f"{name} is no file of deletes: {type(exc).__name__}: {exc}") from exc
    found = {name for some in names for name in some}
    written = _with_names(rows, names)
    return written, Deletes(len(written), min(found, default=""), max(found, default=""))


def _with_names(rows: Any, names: list[list[str]]) -> bytes:
    """Indices stay, so that a name is in memory once, and not for each row."""
    at = rows.schema.get_field_index(FILE_PATH)
    field = rows.schema.field(at)
    chunks: list[Any] = [
        pa.DictionaryArray.from_arrays(chunk.indices, pa.array(some, pa.string()))
        for chunk, some in zip(rows.column(at).chunks, names, strict=True)
    ]
    kind: Any = pa.dictionary(field.type.index_type, pa.string())
    changed, out = rows.set_column(at, field.with_type(kind), pa.chunked_array(chunks, kind)), io.BytesIO()
    with pq.ParquetWriter(out, changed.schema, store_schema=False) as writer:
        writer.write_table(changed)
        writer.add_key_value_metadata(rows.schema.metadata or {})
    return out.getvalue()


def _bounds(found: list[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    kept = [one for one in found if one["key"] != FILE_PATH_ID]
    return [*kept, {"key": FILE_PATH_ID, "value": path.encode()}] if path and len(kept) < len(found) else kept
