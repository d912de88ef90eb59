"""Tables over which DuckDB 1.5.5 ends its process, not its query. They are known by their metadata, and not asked.

Two kinds: files in partitions of columns all of which the schema has no more, and manifests whose partition has a name
that is none in Avro, as other writers make of `Straße`. Both are right by Iceberg, and pyiceberg reads them. A test
says when this is not needed any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

GONE = (
    "it has files in partitions by {!r}, whose column was dropped, and DuckDB reads no such table; let the engine that "
    "dropped the column write these files anew (Spark: CALL system.rewrite_data_files with rewrite-all), or ask it, or "
    "pyiceberg, for the rows"
)
ILL_NAMED = (
    "its partition {!r} is no name in Avro, and DuckDB reads no such manifest; let the engine that wrote it give the "
    "partition field another name (ALTER TABLE ... REPLACE PARTITION FIELD) and write these files anew (Spark: CALL "
    "system.rewrite_data_files with rewrite-all), or ask it, or pyiceberg, for the rows"
)
HEADER_BYTES = 2**18
"""Of a manifest, in which its schema is."""
AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def metadata_of(connection: duckdb.DuckDBPyConnection, location: str) -> dict[str, Any]:
    """Raises OSError or duckdb.Error."""
    rows = connection.execute("SELECT content FROM read_text(?)", [location]).fetchall()
    if not rows:
        raise OSError(f"{location} is not there")
    found: dict[str, Any] = json.loads(rows[0][0])
    return found


def complaint(
    connection: duckdb.DuckDBPyConnection, metadata: Mapping[str, Any], snapshot_id: int | None = None
) -> str:
    """Why the table cannot be read here, and what helps; nothing when it can. None: its newest snapshot."""
    snapshot = _snapshot(metadata, snapshot_id)
    suspects = dict(_suspects(metadata, snapshot if snapshot_id is not None else None))
    if snapshot is None or not suspects:
        return ""
    manifests = connection.execute(
        "SELECT manifest_path, partition_spec_id FROM read_avro(?)", [snapshot["manifest-list"]]
    ).fetchall()
    for path, spec_id in manifests:
        if spec_id in suspects and (why := suspects[spec_id] or _ill_named(connection, path)):
            return why
    return ""


def _snapshot(metadata: Mapping[str, Any], snapshot_id: int | None) -> Mapping[str, Any] | None:
    wanted = metadata.get("current-snapshot-id") if snapshot_id is None else snapshot_id
    return next((one for one in metadata.get("snapshots") or [] if one["snapshot-id"] == wanted), None)


def _suspects(metadata: Mapping[str, Any], snapshot: Mapping[str, Any] | None) -> Iterator[tuple[int, str]]:
    """Partitionings whose files may not be read, and why; nothing: it depends on who wrote the manifest."""
    there = set(_ids(_schema(metadata, snapshot)))
    for spec in metadata.get("partition-specs") or []:
        gone = [field["name"] for field in spec["fields"] if there and field.get("source-id") not in there]
        if gone and len(gone) == len(spec["fields"]):
            yield spec["spec-id"], GONE.format(gone[0])
        elif any(not AVRO_NAME.fullmatch(field["name"]) for field in spec["fields"]):
            yield spec["spec-id"], ""


def _schema(metadata: Mapping[str, Any], snapshot: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """By which it is read: that of the snapshot which is asked for, and now that of the table."""
    wanted = (snapshot or {}).get("schema-id", metadata.get("current-schema-id"))
    return next((one for one in metadata.get("schemas") or [] if one["schema-id"] == wanted), {})


def _ids(kind: Any) -> Iterator[int]:
    for field in kind.get("fields", ()) if isinstance(kind, Mapping) else ():
        yield field["id"]
        yield from _ids(field["type"])


def _ill_named(connection: duckdb.DuckDBPyConnection, path: str) -> str:
    ((content,),) = connection.execute("SELECT content FROM read_blob(?)", [path]).fetchall()
    for name in _names(_schema_in(bytes(content[:HEADER_BYTES]))):
        if not AVRO_NAME.fullmatch(name):
            return ILL_NAMED.format(name)
    return ""


def _schema_in(header: bytes) -> Any:
    """What an Avro file says of its rows; nothing when that is not to be found."""
    text = header.partition(b"avro.schema")[2].decode(errors="replace")
    try:
        return json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
    except ValueError:
        return None


def _names(kind: Any) -> Iterator[str]:
    if isinstance(kind, list):
        for one in kind:
            yield from _names(one)
    elif isinstance(kind, dict):
        for field in kind.get("fields", ()):
            yield str(field.get("name"))
            yield from _names(field.get("type"))
        yield from _names(kind.get("items"))
