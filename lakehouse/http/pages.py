"""Pages of other sites may ask in SQL too: a key is no cookie, so a page that has none is refused, whichever it is of.

In an open house nobody shows a key. There a page of any site could read what its visitor may, so it hears nothing.
"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from lakehouse.events import answers
from lakehouse.events.ingest import correlation
from lakehouse.limits.refusal import Response
from lakehouse.parent.house import house

PATH = "/query"


def is_for_pages(request: HttpRequest) -> bool:
    return request.path == PATH or request.path.startswith(f"{PATH}/")


def preflight(request: HttpRequest, method: str) -> Response | None:
    """The answer to a browser that asks before its page does; None where pages have no business."""
    if request.method != "OPTIONS" or not is_for_pages(request) or house().settings.open:
        return None
    return answers.preflight(method, correlation(request.scope))  # type: ignore[attr-defined]  # an ASGI request


def shown(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """The answer with what a page needs to read it, and the id it can be found by."""
    if is_for_pages(request):
        response["X-Correlation-ID"] = correlation(request.scope)  # type: ignore[attr-defined]  # an ASGI request
        for name, value in () if house().settings.open else answers.ANYBODY:
            response[name.decode()] = value.decode()
    return response
