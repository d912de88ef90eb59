"""Tables over which DuckDB 1.5.5 ends its process, not its query. They are known by their metadata, and not asked.

Three kinds: files in partitions of columns all of which the schema has no more, manifests whose partition has a name
that is none in Avro, as other writers make of `Straße`, and those in which two types have one name, as pyiceberg makes
of partitions by two UUIDs. All are right by Iceberg, and pyiceberg reads them. A test says when this is not needed any
more.
"""

from __future__ import annotations

import json
import re
from collections import Counter
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
NAMED_TWICE = (
    "two types in its manifests are called {!r}, and DuckDB reads no such manifest; let the engine that wrote it write "
    "these files anew (pyiceberg 0.12 does it again, Spark does not), or ask it, or pyiceberg, for the rows"
)
HEADER_BYTES = 2**18
"""Of a manifest, in which its schema is."""
NAMED, WITH_A_NAME = ("record", "fixed", "enum"), ("uuid", "fixed", "decimal")
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
        if spec_id in suspects and (why := suspects[spec_id] or _misspelt(connection, path)):
            return why
    return ""


def _snapshot(metadata: Mapping[str, Any], snapshot_id: int | None) -> Mapping[str, Any] | None:
    wanted = metadata.get("current-snapshot-id") if snapshot_id is None else snapshot_id
    return next((one for one in metadata.get("snapshots") or [] if one["snapshot-id"] == wanted), None)


def _suspects(metadata: Mapping[str, Any], snapshot: Mapping[str, Any] | None) -> Iterator[tuple[int, str]]:
    """Partitionings whose files may not be read, and why; nothing: it depends on who wrote the manifest."""
    there = {field["id"] for field in _fields(_schema(metadata, snapshot))}
    for spec in metadata.get("partition-specs") or []:
        gone = [field["name"] for field in spec["fields"] if there and field.get("source-id") not in there]
        if gone and len(gone) == len(spec["fields"]):
            yield spec["spec-id"], GONE.format(gone[0])
        elif any(not AVRO_NAME.fullmatch(field["name"]) for field in spec["fields"]) or _share_a_type(metadata, spec):
            yield spec["spec-id"], ""


def _schema(metadata: Mapping[str, Any], snapshot: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """By which it is read: that of the snapshot which is asked for, and now that of the table."""
    wanted = (snapshot or {}).get("schema-id", metadata.get("current-schema-id"))
    return next((one for one in metadata.get("schemas") or [] if one["schema-id"] == wanted), {})


def _share_a_type(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    """Whether two of its partitions may be by types that have a name in Avro."""
    kinds = {field["id"]: str(field["type"]) for schema in metadata["schemas"] for field in _fields(schema)}
    return sum(kinds.get(field.get("source-id"), "").startswith(WITH_A_NAME) for field in spec["fields"]) > 1


def _fields(kind: Any) -> Iterator[Mapping[str, Any]]:
    for field in kind.get("fields", ()) if isinstance(kind, Mapping) else ():
        yield field
        yield from _fields(field["type"])


def _misspelt(connection: duckdb.DuckDBPyConnection, path: str) -> str:
    ((content,),) = connection.execute("SELECT content FROM read_blob(?)", [path]).fetchall()
    schema = _schema_in(bytes(content[:HEADER_BYTES]))
    for name in _names(schema):
        if not AVRO_NAME.fullmatch(name):
            return ILL_NAMED.format(name)
    twice = [name for name, count in Counter(_types(schema)).items() if count > 1]
    return NAMED_TWICE.format(twice[0]) if twice else ""


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


def _types(kind: Any) -> Iterator[str]:
    """What it calls types of its own."""
    if isinstance(kind, list):
        for one in kind:
            yield from _types(one)
    elif isinstance(kind, dict):
        if isinstance(kind.get("type"), str) and "name" in kind and kind["type"] in NAMED:
            yield str(kind["name"])
        for inner in ("type", "fields", "items", "values"):
            yield from _types(kind.get(inner))
