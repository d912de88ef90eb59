"""SQL over the lake for people: the engine of POST /query with its limits, its answer as a table and as a chart.

Cancel hangs up, and who hangs up ends his query (`query.engine`). Without scripts the same form answers with a page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from asgiref.sync import sync_to_async
from django.conf import settings as site
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from lakehouse.catalog_choice import elsewhere
from lakehouse.dashboard import chosen, drawing, gate, tables
from lakehouse.dashboard.gate import page
from lakehouse.errors import InvalidQuery, QueryError
from lakehouse.http.queries import engine_of
from lakehouse.parent.house import house
from lakehouse.query import lake_tables
from lakehouse.query.engine import Query
from lakehouse.query.messages import Answer, Name, Place
from lakehouse.query.quoting import identifier

LIMITS = (100, 1000, 10_000)
LIMIT = 1000
AS_OF_CHARS_MAX = 60
FIRST = "SELECT * FROM {table} LIMIT 100"
NOTHING = "NULL"
SHORT = {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}


@dataclass(frozen=True, slots=True)
class Asked:
    sql: str
    namespace: str
    as_of: str
    limit: int


@page(gate.TABLES)
def editor(request: HttpRequest) -> HttpResponse:
    """Runs nothing: a query in the address waits for a click."""
    return _page(request, _asked(request.GET, chosen.namespace(request)), None)


@page(gate.TABLES, method="POST")
async def run(request: HttpRequest) -> HttpResponse:
    asked = _asked(request.POST, await sync_to_async(chosen.namespace)(request))
    result = await _result(asked, caller=f"user {request.user.pk}")
    if gate.is_fragment(request):
        return HttpResponse(await asyncio.to_thread(render_to_string, "dashboard/_result.html", {"result": result}))
    return await sync_to_async(_page)(request, asked, result)


@page(gate.TABLES)
async def columns(request: HttpRequest) -> HttpResponse:
    """Those of one table, asked when somebody opens it in the list."""
    namespace, table = request.GET.get("of", ""), request.GET.get("table", "")
    query = Query(sql=f"DESCRIBE {identifier(namespace)}.{identifier(table)}")
    try:
        answer = await engine_of(house()).run(query, find=_find, caller=f"user {request.user.pk}")
    except QueryError as exc:
        said: dict[str, Any] = {"problem": sentence(str(exc))}
    else:
        said = {
            "columns": [
                (tables.word(name), name, SHORT.get(kind, kind)) for name, kind, *_ in orjson.loads(answer.body)
            ]
        }
    return HttpResponse(render_to_string("dashboard/_columns.html", said))


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _page(request: HttpRequest, asked: Asked, result: dict[str, Any] | None) -> HttpResponse:
    groups = tables.groups(asked.namespace)
    if not asked.sql and groups:
        asked = Asked(FIRST.format(table=groups[0].tables[0].sql), asked.namespace, asked.as_of, asked.limit)
    context = {
        "asked": asked,
        "result": result,
        "groups": groups,
        "commits": tables.commits(asked.namespace),
        "limits": [one for one in LIMITS if one <= site.EVODB.query_rows_max] or [site.EVODB.query_rows_max],
        "elsewhere": sentence(elsewhere(site.EVODB.catalog)) if site.EVODB.catalog else "",
        "timeout_s": site.EVODB.query_timeout_ms // 1000,
    }
    shown: HttpResponse = gate.show(request, "sql.html", context)
    return shown


def _asked(said: Any, namespace: str) -> Asked:
    limit = said.get("limit", "")
    return Asked(
        sql=said.get("sql", ""),
        namespace=namespace,
        as_of=said.get("as_of", "").strip(),
        limit=int(limit) if limit.isascii() and limit.isdecimal() and 0 < len(limit) < 9 and int(limit) else LIMIT,
    )


async def _result(asked: Asked, *, caller: str) -> dict[str, Any]:
    try:
        if not asked.sql.strip():
            raise InvalidQuery("there is no query yet; write one SELECT, or click a table for its name")
        if len(asked.as_of) > AS_OF_CHARS_MAX:
            raise InvalidQuery("As of is too long; wanted a time such as 2026-01-31 12:00:00, or the id of a snapshot")
        query = Query(sql=asked.sql, namespace=asked.namespace, as_of=asked.as_of, rows_max=asked.limit)
        answer = await engine_of(house()).run(query, find=_find, caller=caller)
    except QueryError as exc:
        said, _, where = sentence(str(exc)).partition("\n")
        return {"problem": said, "where": where.strip("\n"), "code": exc.code}
    return await asyncio.to_thread(_shown, answer, asked)


def _shown(answer: Answer, asked: Asked) -> dict[str, Any]:
    """In a thread of its own, for a large answer takes a while and asks no database."""
    rows: list[list[Any]] = orjson.loads(answer.body)
    named = [(one.name, one.type) for one in answer.columns]
    drawn = drawing.of_answer(named, rows)
    return {
        "columns": [(name, SHORT.get(kind, kind), drawing.kind_of(kind)) for name, kind in named],
        "rows": [[_cell(value) for value in row] for row in rows],
        "count": answer.rows,
        "elapsed_ms": answer.elapsed_ms,
        "cut_at": answer.cut_at,
        "bytes_max": site.EVODB.query_bytes_max,
        "as_of": asked.as_of,
        "drawing": drawn.json if isinstance(drawn, drawing.Drawing) else None,
        "why_no_chart": drawn if isinstance(drawn, str) else "",
    }


def _cell(value: Any) -> tuple[str, str]:
    """Its text, and what it is."""
    if value is None:
        return NOTHING, "null"
    if isinstance(value, bool):
        return str(value).lower(), ""
    if isinstance(value, int | float):
        return str(value), "number"
    return (value if isinstance(value, str) else orjson.dumps(value).decode()), ""


async def _find(names: Sequence[Name]) -> list[Place]:
    """Whoever may see the tables in the admin may read all of them."""
    return await sync_to_async(partial(lake_tables.places, names, allows=lambda _: True))()
