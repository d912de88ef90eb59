"""What a metadata file says to a reader: in which folders the table is, and which snapshot was current when. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from lakehouse.errors import InvalidQuery

PLACES = ("write.data.path", "write.metadata.path")


def folders(metadata: Mapping[str, Any], metadata_location: str) -> list[str]:
    """Where the files of this table may be, each ending with a slash. The next table's are not among them."""
    base = str(metadata["location"]).rstrip("/")
    said = [metadata.get("properties", {}).get(name) for name in PLACES]
    found = [f"{base}/data", f"{base}/metadata", metadata_location.rpartition("/")[0], *(one for one in said if one)]
    return sorted({one.removeprefix("file://").rstrip("/") + "/" for one in found})


def by_id(metadata: Mapping[str, Any], snapshot_id: int, *, table: str) -> int:
    """Raises InvalidQuery when the table has no such snapshot (any more)."""
    known = [one["snapshot-id"] for one in metadata.get("snapshots", [])]
    if snapshot_id not in known:
        newest = ", ".join(str(one) for one in known[-3:][::-1]) or "none"
        raise InvalidQuery(f"{table} has no snapshot {snapshot_id}, or it has expired; the newest are {newest}")
    return snapshot_id


def as_of(metadata: Mapping[str, Any], moment_ms: int, *, table: str, moment: str) -> int:
    """The snapshot that was current then. Raises InvalidQuery when the table cannot tell."""
    known = {one["snapshot-id"]: int(one["timestamp-ms"]) for one in metadata.get("snapshots", [])}
    log = metadata.get("snapshot-log") or [
        {"snapshot-id": number, "timestamp-ms": since}
        for number, since in sorted(known.items(), key=lambda one: one[1])
    ]
    then = [one["snapshot-id"] for one in log if int(one["timestamp-ms"]) <= moment_ms]
    if then and then[-1] in known:
        number: int = then[-1]
        return number
    kept = [since for since in known.values() if since > moment_ms]
    oldest = f"the oldest one kept is of {_shown(min(kept))}" if kept else "none is kept"
    raise InvalidQuery(f"{table} had no snapshot at {moment}, or it has expired; {oldest}")


def _shown(moment_ms: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment_ms)).isoformat(timespec="milliseconds")
