"""The paths that the files of a table name, exchanged for those of its new place. Pure.

Names of fields are those of the format: https://iceberg.apache.org/spec/#manifests
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyiceberg.manifest import DataFileContent

from lakehouse.catalog.rest.places import PATHS
from lakehouse.moving.relocation import Immovable, Relocation

STATISTICS, STATISTICS_PATH = ("statistics", "partition-statistics"), "statistics-path"


def metadata(document: dict[str, Any], relocation: Relocation) -> dict[str, Any]:
    """Of a metadata file. Older ones are named no more, for they stay behind."""
    changed: dict[str, Any] = {"location": relocation.new(document["location"]), "metadata-log": []}
    given = document.get("properties") or {}
    changed["properties"] = given | {name: relocation.new(given[name]) for name in PATHS if name in given}
    changed["snapshots"] = [_snapshot(one, relocation) for one in document.get("snapshots") or []]
    for kind in STATISTICS:
        if document.get(kind):
            changed[kind] = [one | {STATISTICS_PATH: relocation.new(one[STATISTICS_PATH])} for one in document[kind]]
    return document | changed


def statistics(document: dict[str, Any]) -> list[str]:
    """Files that a metadata file names itself, which name no others."""
    return [one[STATISTICS_PATH] for kind in STATISTICS for one in document.get(kind) or []]


def manifest_lists(document: dict[str, Any], relocation: Relocation) -> list[str]:
    """Raises Immovable."""
    found = [one.get("manifest-list", "") for one in document.get("snapshots") or []]
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
    """Of a file in a manifest."""
    name = relocation.rewritten if names_files(file) else relocation.new
    changed = file | {"file_path": name(file["file_path"])}
    if file.get("referenced_data_file"):
        changed["referenced_data_file"] = relocation.new(file["referenced_data_file"])
    return changed


def names_files(file: dict[str, Any]) -> bool:
    """Whether it says which rows of other files are deleted."""
    return bool(file.get("content") == DataFileContent.POSITION_DELETES)


def check_deletes(file: dict[str, Any], relocation: Relocation) -> None:
    """Raises Immovable for a file of deletes that cannot be written anew."""
    if file["file_format"].upper() != "PARQUET":
        raise Immovable(
            f"its rows are deleted by a file of {file['file_format']}; let the engine that did it merge them, and "
            "forget the snapshots before"
        )
    check(file["file_path"], relocation)


def _snapshot(snapshot: dict[str, Any], relocation: Relocation) -> dict[str, Any]:
    return snapshot | {"manifest-list": relocation.rewritten(snapshot["manifest-list"])}
