"""Pages of other sites may ask in SQL and subscribe too: a key is no cookie, so a page that has none is refused,
whichever it is of.

In an open house nobody shows a key. There a page of any site could read what its visitor may, so it hears nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse

from lakehouse.events import answers
from lakehouse.events.ingest import correlation
from lakehouse.limits.refusal import Response
from lakehouse.parent.house import house

PATHS = ("/query", "/subscriptions")
Run = Callable[..., Awaitable[HttpResponse]]


def is_for_pages(request: HttpRequest) -> bool:
    return any(request.path == path or request.path.startswith(f"{path}/") for path in PATHS)


def preflight(request: HttpRequest, methods: str) -> Response | None:
    """The answer to a browser that asks before its page does; None where pages have no business."""
    if request.method != "OPTIONS" or not is_for_pages(request) or house().settings.open:
        return None
    return answers.preflight(methods, correlation(request.scope))  # type: ignore[attr-defined]  # an ASGI request


def shown(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """The answer with what a page needs to read it, and the id it can be found by."""
    if is_for_pages(request):
        response["X-Correlation-ID"] = correlation(request.scope)  # type: ignore[attr-defined]  # an ASGI request
        for name, value in () if house().settings.open else answers.ANYBODY:
            response[name.decode()] = value.decode()
    return response


def readable(run: Run) -> Run:
    """An operation of django-ninja whose every answer is shown so."""

    @wraps(run)
    async def run_and_show(request: HttpRequest, **values: Any) -> HttpResponse:
        return shown(request, await run(request, **values))

    return run_and_show
