"""What the lake knows of a todo: every change it ever had, and what it was at a bookmark or at a time.

A query sees what is in the table, so what the app has just done is sent and flushed first.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from django.conf import settings

from todo.documents import COLLECTION, SOURCE, events

TIMEOUT_S = 60
CHANGES = """
SELECT ts, type, doc, prev, bookmark FROM events
WHERE "do"->>'$.id' = $source AND collection = $collection AND docId = $doc_id AND type LIKE 'collection.%'
"""
AT_BOOKMARK = CHANGES + "AND bookmark <= $moment ORDER BY bookmark DESC LIMIT 1"
AT_TIME = CHANGES + "AND ts <= CAST($moment AS TIMESTAMPTZ) ORDER BY bookmark DESC LIMIT 1"


class LakeError(Exception):
    """The lake did not answer, or not what was asked."""


def history(doc_id: str) -> list[dict[str, Any]]:
    """Every change of a todo, the oldest first."""
    return _changes(CHANGES + "ORDER BY bookmark", doc_id)


def as_of(doc_id: str, *, bookmark: str = "", at: str = "") -> dict[str, Any] | None:
    """The todo as it was; None when there was none. `at` is a time in ISO 8601."""
    found = _changes(AT_BOOKMARK, doc_id, bookmark) if bookmark else _changes(AT_TIME, doc_id, at)
    return found[0]["doc"] if found else None


def _changes(sql: str, doc_id: str, moment: str = "") -> list[dict[str, Any]]:
    _bring_up_to_date()
    parameters = {"source": SOURCE, "collection": COLLECTION, "doc_id": doc_id} | ({"moment": moment} if moment else {})
    answer = _post("/query", {"sql": sql, "parameters": parameters})
    names = [column["name"] for column in answer["columns"]]
    found = [dict(zip(names, row, strict=True)) for row in answer["rows"]]
    return [row | {name: row[name] and json.loads(row[name]) for name in ("doc", "prev")} for row in found]


def _bring_up_to_date() -> None:
    events.flush()
    if waiting := events.pending_count:
        raise LakeError(f"{waiting} events wait in {settings.TODO_DATABASE}, for {settings.TODO_LAKE_URL} takes none")
    _post(f"/flush?parent={urllib.parse.quote(settings.TODO_LAKE_PARENT)}", {})


def _post(path: str, body: Any) -> Any:
    url, headers = settings.TODO_LAKE_URL + path, {"Authorization": f"Bearer {settings.TODO_LAKE_KEY}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as exc:
        raise LakeError(f"{path} answered {exc.code}: {exc.read(1000).decode(errors='replace')}") from None
    except (OSError, ValueError) as exc:
        raise LakeError(f"{url} does not answer: {exc}") from None
