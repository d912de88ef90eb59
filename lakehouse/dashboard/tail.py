"""Events as they come in: first the newest there are, then, every second, those of the batches behind the last one.

Asked and not pushed: a page that asks needs no connection of its own, goes on by itself after the server was away, and
every event is escaped by the templates like all else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse

from lakehouse.dashboard import chosen, gate, tables
from lakehouse.dashboard.gate import page
from lakehouse.events import event, homes, reading, waiting, wanted
from lakehouse.events.refusals import EventsRefused
from lakehouse.events.wanted import Found, Wanted
from lakehouse.parent.grants import ADMIN, QUERY, Grant
from lakehouse.parent.house import house

FIRST = 50
ROWS_MAX = 200
"""So many stay on the page, the newest."""
SUMMARY_CHARS = 160
OF_ALL = ("type", "ts", "do", "id", "ns")
BATCH_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    moment: str
    shown: str
    type: str
    source: str
    summary: str
    body: str


@page(gate.EVENTS)
async def tail(request: HttpRequest) -> HttpResponse:
    namespace, kind = await sync_to_async(chosen.namespace)(request), _type(request)
    after = await sync_to_async(_newest_batch)(namespace)
    problem, found = "", []
    grant = Grant(None, "dashboard", scopes=(QUERY, ADMIN))
    try:
        asked = Wanted(type=kind, limit=FIRST)
        found = await reading.events_of(house(), grant, namespace, asked, caller=f"user {request.user.pk}")
    except EventsRefused as exc:
        problem = f"Only what comes in from now on is shown, for the table did not answer: {exc}"
    newest = sorted({one.place: one for one in found}.values(), key=lambda one: one.place, reverse=True)[:FIRST]
    context = {
        "rows": [_row(one) for one in newest],
        "type": kind,
        "poll": _poll(namespace, kind, after),
        "problem": problem,
        "rows_max": ROWS_MAX,
    }
    shown: HttpResponse = await sync_to_async(gate.show)(request, "tail.html", context)
    return shown


@page(gate.EVENTS)
def rows(request: HttpRequest) -> HttpResponse:
    """What came behind a batch, newest first; 204 when nothing did."""
    namespace, kind, said = chosen.namespace(request), _type(request), request.GET.get("after", "")
    after = min(int(said), BATCH_MAX) if said.isascii() and said.isdecimal() and len(said) < 20 else 0
    parent_id = homes.find(namespace)
    steps = [] if parent_id is None else waiting.steps(parent_id, Wanted(type=kind), after=after)
    if not steps:
        return HttpResponse(status=204)
    found = [one for step in steps for one in step.events]
    context = {
        "rows": [_row(one) for one in reversed(found[-ROWS_MAX:])],
        "left_out": max(0, len(found) - ROWS_MAX),
        "gaps": sum(step.is_gone for step in steps),
        "poll": _poll(namespace, kind, steps[-1].batch_id),
    }
    return HttpResponse(render_to_string("dashboard/_rows.html", context))


def _type(request: HttpRequest) -> str:
    return request.GET.get("type", "").strip()[: wanted.WORD_CHARS_MAX]


def _newest_batch(namespace: str) -> int:
    """Asked before the events are: what comes meanwhile is then told twice, and shown once by its id."""
    parent_id = homes.find(namespace)
    return 0 if parent_id is None else waiting.last_batch(parent_id)


def _poll(namespace: str, kind: str, after: int) -> str:
    words = {chosen.PARAMETER: namespace, "type": kind, "after": after}
    return f"{reverse('dashboard:tail-rows')}?{urlencode(words)}"


def _row(found: Found) -> Row:
    document, rest, body = _read(found.body)
    origin = document.get("do")
    source = origin.get("id") if isinstance(origin, dict) else document.get("source")
    return Row(
        id=found.id,
        moment=event.shown(found.moment_ms),
        shown=tables.moment(found.moment_ms),
        type=str(document.get("type", "")),
        source="" if source is None else str(source),
        summary=rest if len(rest) <= SUMMARY_CHARS else f"{rest[:SUMMARY_CHARS]}…",
        body=body,
    )


def _read(body: bytes) -> tuple[dict[str, Any], str, str]:
    """What is in it, what of that is no heading, and all of it on several lines."""
    try:
        document: dict[str, Any] = orjson.loads(body)
        rest = {name: value for name, value in document.items() if name not in OF_ALL}
        return document, orjson.dumps(rest).decode(), orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # too deep for one of the two, or a number beyond bounds
        text = body.decode(errors="replace")
        return {}, text, text
