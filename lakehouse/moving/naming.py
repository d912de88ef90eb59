"""The paths that the files of a table name, exchanged for those of its new place. Pure.

Names of fields are those of the format: https://iceberg.apache.org/spec/#manifests
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lakehouse.catalog.rest.places import PATHS
from lakehouse.errors import LakehouseError
from lakehouse.moving.relocation import Relocation

POSITION_DELETES = 1
DELETED = 2
STATISTICS, STATISTICS_PATH = ("statistics", "partition-statistics"), "statistics-path"
FILE_PATH, DELETE_FILE_PATH_ID = "file_path", 2147483546


class Immovable(LakehouseError):
    """The table cannot be brought to another place."""

    code = "IMMOVABLE"


def metadata(document: dict[str, Any], relocation: Relocation) -> dict[str, Any]:
    """Of a metadata file. Older ones are named no more, for they stay behind."""
    changed: dict[str, Any] = {"location": relocation.new(document["location"]), "metadata-log": []}
    given = document.get("properties", {})
    changed["properties"] = given | {name: relocation.new(given[name]) for name in PATHS if name in given}
    changed["snapshots"] = [_snapshot(one, relocation) for one in document.get("snapshots", [])]
    for kind in STATISTICS:
        if kind in document:
            changed[kind] = [one | {STATISTICS_PATH: relocation.new(one[STATISTICS_PATH])} for one in document[kind]]
    return document | changed


def statistics(document: dict[str, Any]) -> list[str]:
    """Files that a metadata file names itself, which name no others."""
    return [one[STATISTICS_PATH] for kind in STATISTICS for one in document.get(kind, [])]


def manifest_lists(document: dict[str, Any], relocation: Relocation) -> list[str]:
    """Raises Immovable."""
    found = [one.get("manifest-list", "") for one in document.get("snapshots", [])]
    for path in found:
        if not path:
            raise Immovable("it has snapshots without a manifest list, as some of format 1; let its engine upgrade it")
        check(path, relocation)
    return found


def check(path: str, relocation: Relocation) -> None:
    """Raises Immovable for a file that names others and does not lie where the lake does."""
    if not relocation.moves(path):
        raise Immovable(f"it has {path}, which does not lie in {relocation.recorded}")


def list_entry(record: dict[str, Any], relocation: Relocation, lengths: Mapping[str, int]) -> dict[str, Any]:
    """Of a list of manifests; `lengths` are those of the new manifests, by the paths of the old ones."""
    path = record["manifest_path"]
    return record | {"manifest_path": relocation.rewritten(path), "manifest_length": lengths[path]}


def file_entry(file: dict[str, Any], relocation: Relocation) -> dict[str, Any]:
    """Of a file in a manifest. Raises Immovable."""
    changed = file | {FILE_PATH: relocation.new(file[FILE_PATH])}
    if file.get("referenced_data_file"):
        changed["referenced_data_file"] = relocation.new(file["referenced_data_file"])
    if not names_files(file):
        return changed
    if file["file_format"].upper() != "PARQUET":
        raise Immovable(
            f"its rows are deleted by a file of {file['file_format']}; let the engine that did it merge them"
        )
    bounds = {name: _bounds(file.get(name), relocation) for name in ("lower_bounds", "upper_bounds") if name in file}
    return changed | bounds | {FILE_PATH: relocation.rewritten(file[FILE_PATH])}


def names_files(file: dict[str, Any]) -> bool:
    """Whether it says which rows of other files are deleted."""
    return bool(file.get("content") == POSITION_DELETES)


def deletes(rows: pa.Table, relocation: Relocation) -> pa.Table:
    """Of a file of deletes by position."""
    at = rows.schema.get_field_index(FILE_PATH)
    field = rows.schema.field(at)
    paths: Any = rows.column(at).combine_chunks().cast(pa.string()).dictionary_encode()
    renamed = pa.array([relocation.new(path) for path in paths.dictionary.to_pylist()], pa.string())
    return rows.set_column(at, field, renamed.take(paths.indices).cast(field.type))


def _snapshot(snapshot: dict[str, Any], relocation: Relocation) -> dict[str, Any]:
    return snapshot | {"manifest-list": relocation.rewritten(snapshot["manifest-list"])}


def _bounds(found: list[dict[str, Any]] | None, relocation: Relocation) -> list[dict[str, Any]] | None:
    """A bound that was cut short bounds nothing in the new place."""
    if found is None:
        return None
    kept = []
    for one in found:
        if one["key"] != DELETE_FILE_PATH_ID:
            kept.append(one)
        elif relocation.moves(path := one["value"].decode(errors="replace")):
            kept.append(one | {"value": relocation.new(path).encode()})
    return kept
