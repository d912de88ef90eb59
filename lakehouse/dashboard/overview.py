"""The first page: what came in during the last hour, and how the namespace stands."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse

from lakehouse import clock
from lakehouse.admin.shown import age_text
from lakehouse.dashboard import chosen, drawing, gate, minutes, standing
from lakehouse.dashboard.gate import page
from lakehouse.http.queries import engine_of
from lakehouse.parent.house import house

HOUR_MS = 60 * drawing.MINUTE_MS
TYPES_SHOWN = 12


@page(gate.EVENTS)
async def overview(request: HttpRequest) -> HttpResponse:
    opened, now_ms = house(), clock.now_ms()
    since_ms = (now_ms - HOUR_MS) // drawing.MINUTE_MS * drawing.MINUTE_MS
    namespace = await sync_to_async(chosen.namespace)(request)
    found = await minutes.of_events(
        engine_of(opened), namespace, since_ms=since_ms, until_ms=now_ms, caller=f"user {request.user.pk}"
    )
    shown: HttpResponse = await sync_to_async(_page)(request, namespace, found, since_ms, now_ms)
    return shown


def _page(request: HttpRequest, namespace: str, found: minutes.Minutes, since_ms: int, now_ms: int) -> HttpResponse:
    rows = standing.rows_by_minute(namespace, since_ms=since_ms)
    stands = standing.of(namespace, now_ms=now_ms)
    context: dict[str, Any] = {
        "stands": stands,
        "lag": _age(stands.oldest_ms, now_ms),
        "flushed": _age(stands.last_flush_ms, now_ms),
        "missing": found.missing,
        "events": _counted(found.counts, since_ms, now_ms),
        "rows": _counted(rows, since_ms, now_ms),
    }
    shown: HttpResponse = gate.show(request, "overview.html", context)
    return shown


def _counted(counts: minutes.Counts, since_ms: int, now_ms: int) -> dict[str, Any]:
    """For a chart, and for whoever reads instead of looks."""
    totals = drawing.totals(counts)
    return {
        "drawing": drawing.by_minute(counts, since_ms=since_ms, until_ms=now_ms).json if totals else None,
        "totals": totals[:TYPES_SHOWN],
        "rare": len(totals[TYPES_SHOWN:]),
        "sum": sum(counts.values()),
    }


def _age(moment_ms: int | None, now_ms: int) -> str:
    return "" if not moment_ms else age_text(now_ms - moment_ms)
