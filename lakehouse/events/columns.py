"""The columns of the table `events`, by DuckDB's names of their types. Pure; a process that only asks loads no Arrow.

What is an object in an event (`do`, `doc`, `properties`, ...) is JSON text in its column.
"""

from __future__ import annotations

TEXT, MOMENT = "VARCHAR", "TIMESTAMPTZ"
_TEXTS = (
    *("do", "method", "namespace", "error", "collection", "docId", "doc", "prev", "bookmark", "reason"),
    *("event", "properties", "traits", "userId", "anonymousId", "sessionId", "data"),
    *("source", "webhook", "payload", "url", "actor", "meta"),
)
COLUMNS = {
    **dict.fromkeys(("id", "ns", "type"), TEXT),
    "ts": MOMENT,
    **dict.fromkeys(_TEXTS, TEXT),
    "durationMs": "DOUBLE",
    "success": "BOOLEAN",
    "connectionCount": "BIGINT",
    "code": "BIGINT",
}
