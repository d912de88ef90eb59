"""Events that were refused for good, kept apart in the outbox's file: so many, and so large, that the oldest go."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rpc.http import Answer

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS _evodb_event_aside (id INTEGER PRIMARY KEY, reason TEXT NOT NULL, time_ms INTEGER NOT NULL,
    body BLOB NOT NULL)
"""
TOO_OLD = """
SELECT id, reason, time_ms, body FROM (
    SELECT *, count(*) OVER newer AS events, sum(length(body)) OVER newer AS bytes FROM _evodb_event_aside
    WINDOW newer AS (ORDER BY id DESC))
WHERE events > ? OR (bytes > ? AND events > 1) ORDER BY id
"""
"""The newest stays, however large it is."""
NAMED_MAX = 10
REASON_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class SetAside:
    """An event that nobody will ever take as it is."""

    id: int
    reason: str
    time_ms: int
    body: bytes


def put(connection: sqlite3.Connection, batch: str, ids: Collection[int], reason: str, *, now_ms: int) -> None:
    """Out of a batch that waits."""
    marks = ", ".join("?" * len(ids))
    these = f"FROM _evodb_event WHERE batch = ? AND id IN ({marks})"
    connection.execute(
        f"INSERT INTO _evodb_event_aside (reason, time_ms, body) SELECT ?, ?, body {these} ORDER BY id",
        (reason, now_ms, batch, *ids),
    )
    connection.execute(f"DELETE {these}", (batch, *ids))


def make_room(connection: sqlite3.Connection, *, events_max: int, bytes_max: int) -> list[SetAside]:
    """Those that had to go, the oldest first."""
    found = [SetAside(*row) for row in connection.execute(TOO_OLD, (events_max, bytes_max))]
    if found:
        connection.execute("DELETE FROM _evodb_event_aside WHERE id <= ?", (found[-1].id,))
    return found


def kept(connection: sqlite3.Connection, limit: int) -> list[SetAside]:
    """The oldest first."""
    rows = connection.execute("SELECT id, reason, time_ms, body FROM _evodb_event_aside ORDER BY id LIMIT ?", (limit,))
    return [SetAside(*row) for row in rows]


def tell(gone: Sequence[SetAside], hear: Callable[[Sequence[SetAside]], None] | None) -> None:
    """Say which events are kept no longer; who hears of it keeps nobody from sending the others."""
    text = "%d events that were set aside before are kept no longer, for newer ones (max_set_aside): %s"
    log.warning(text, len(gone), names(gone))
    try:
        if hear is not None:
            hear(gone)
    except Exception:
        log.exception("on_set_aside_dropped failed")


def names(events: Sequence[SetAside]) -> str:
    """By which they are known to who emitted them, and why they were refused."""
    said = "; ".join(f"{_id(one.body)} ({one.reason})" for one in events[:NAMED_MAX])
    return said if len(events) <= NAMED_MAX else f"{said}; and {len(events) - NAMED_MAX} more"


def complaint(answer: Answer, count: int) -> tuple[str, list[int]]:
    """What the other side said of a batch, and which of so many events it meant."""
    try:
        said = json.loads(answer.body)
        found = said.get("details", {}).get("indices", [])
        indices = {index for index in found if type(index) is int and 0 <= index < count}
        text = f"{said.get('code', answer.status)}: {said.get('error', '')}"[:REASON_CHARS_MAX]
        return text.encode(errors="replace").decode(), sorted(indices)  # half a pair is no text that can be kept
    except (ValueError, AttributeError, TypeError, RecursionError):
        return f"HTTP {answer.status}", []


def _id(body: bytes) -> str:
    try:
        return str(json.loads(body)["id"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return "an event"
