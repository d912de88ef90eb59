"""GET /documents/<collection>/<id> and .../history: what a document is, or was, and how it came to be so.

As `reading` does, the journal is asked before the table, so whatever was acknowledged counts. Events are looked into by
threads: their stacks are short, so what was not too deep to be taken is not too deep to be shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote, unquote, urlencode

import msgspec
from asgiref.sync import sync_to_async

from lakehouse.events import answers, callers, changes, homes, reading, waiting
from lakehouse.events.changes import Asked
from lakehouse.events.ingest import ReadBody, correlation
from lakehouse.events.refusals import Code, EventsRefused, refuse
from lakehouse.events.wanted import Found
from lakehouse.limits.refusal import Response
from lakehouse.parent.grants import ADMIN, QUERY, Grant
from lakehouse.parent.house import House

PATH = "/documents/{collection}/{path:doc_id}"
HISTORY = "history"


async def answer(scope: dict[str, Any], read_body: ReadBody, house: House) -> Response:
    """Serve one request, whatever its method."""
    correlation_id = correlation(scope)
    if scope["method"] == "OPTIONS":
        return answers.preflight("GET", correlation_id)
    if scope["method"] != "GET":
        return answers.not_allowed(scope["path"], scope["method"], "GET", correlation_id)
    try:
        collection, doc_id, is_history = _named(scope)
        said = callers.asked_of(scope, is_open=house.settings.open)
        grant, namespace = await callers.permit(house, scope, said, QUERY, ADMIN)
        asked = changes.asked_of(said.query, collection, doc_id, is_history=is_history)
        about = {"namespace": namespace, "collection": collection, "docId": doc_id}
        if is_history:
            document = about | await _history(house, grant, namespace, asked, said.query)
        else:
            document = about | await _state(house, grant, namespace, asked)
    except EventsRefused as exc:
        return answers.refused(exc, correlation_id)
    return answers.written(200, msgspec.json.encode(document), b"application/json", correlation_id)


async def _state(house: House, grant: Grant, namespace: str, asked: Asked) -> dict[str, Any]:
    rows_max = changes.SOURCES_SAID_MAX + 1
    found = await _found(house, grant, namespace, asked, _last_ones, asked.newest_sql(namespace), rows_max)
    change = await asyncio.to_thread(changes.newest, asked, found)
    if change is None:
        text = f"nothing is known of a document {asked.doc_id[:100]!r} in {asked.collection[:100]!r}"
        raise refuse(Code.NOT_FOUND, f"{text} as of then" if asked.last_ms is not None or asked.bookmark else text)
    return changes.state(change)


async def _history(
    house: House, grant: Grant, namespace: str, asked: Asked, query: Mapping[str, list[str]]
) -> dict[str, Any]:
    foremost = partial(changes.foremost, asked)
    found = await _found(house, grant, namespace, asked, foremost, asked.page_sql(namespace), asked.limit + 1)
    shown, cursor = await asyncio.to_thread(changes.page, asked, found)
    links = {"self": _link(asked, query, query.get("cursor", [None])[0]), "first": _link(asked, query, None)}
    if cursor is not None:
        links["next"] = _link(asked, query, cursor)
    return {"changes": [msgspec.Raw(one.found.body) for one in shown], "count": len(shown), "links": links}


async def _found(
    house: House,
    grant: Grant,
    namespace: str,
    asked: Asked,
    choose: Callable[[Iterable[Found]], list[Found]],
    query: tuple[str, dict[str, Any]],
    rows_max: int,
) -> list[Found]:
    """What `choose` takes of what waits, and what the query finds."""
    parent_id = await sync_to_async(homes.find)(namespace)
    if parent_id is None:
        return []
    waits = await sync_to_async(lambda: choose(waiting.fitting(parent_id, asked)))()
    return waits + await reading.in_table(house, grant, namespace, *query, rows_max=rows_max)


def _last_ones(found: Iterable[Found]) -> list[Found]:
    return [change.found for change in changes.last_ones(found).values()]


def _named(scope: dict[str, Any]) -> tuple[str, str, bool]:
    """Collection and document, and whether their history is meant; a slash in a name comes as %2F. Raises
    EventsRefused.
    """
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    path = raw.partition(b"?")[0].decode("latin-1").removeprefix(scope.get("root_path", ""))
    names = [unquote(part) for part in path.split("/")[2:]]
    if not 2 <= len(names) <= 3 or not all(names) or names[2:] not in ([], [HISTORY]):
        text = "wanted /documents/<collection>/<id> or /documents/<collection>/<id>/history, a slash in a name as %2F"
        raise refuse(Code.NOT_FOUND, text)
    return names[0], names[1], len(names) == 3


def _link(asked: Asked, query: Mapping[str, list[str]], cursor: str | None) -> str:
    path = "/".join(("/documents", quote(asked.collection, safe=""), quote(asked.doc_id, safe=""), HISTORY))
    words = {name: query[name][0] for name in changes.PAGE if name in query} | ({"cursor": cursor} if cursor else {})
    return f"{path}?{urlencode(words)}" if words else path
