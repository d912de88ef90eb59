"""The way to every page: who may see it, what it shares with the others, and what a browser may do with it.

Who comes in is a login of the admin (`is_staff`), and a page asks for the permission that the admin has for the same
rows. Pages are sealed: no script and no style but our own files, nothing from elsewhere, no frame, no copy in a cache.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse

from lakehouse.dashboard import chosen

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
EVENTS = "lakehouse.view_batch"
TABLES = "lakehouse.view_icebergtable"
SUBSCRIPTIONS = "subscriptions.view_subscription"
DELIVERIES = "subscriptions.view_delivery"
STEER = "subscriptions.change_subscription"
RETRY = "subscriptions.change_delivery"
REPLAY = "lakehouse.change_deadletter"

View = Callable[..., HttpResponse | Awaitable[HttpResponse]]
Guarded = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


@dataclass(frozen=True, slots=True)
class Link:
    name: str
    title: str
    permission: str

    @property
    def address(self) -> str:
        return reverse(f"dashboard:{self.name}")


LINKS = (
    Link("overview", "Overview", EVENTS),
    Link("sql", "SQL", TABLES),
    Link("tail", "Live tail", EVENTS),
    Link("subscriptions", "Subscriptions", SUBSCRIPTIONS),
    Link("letters", "Dead letters", DELIVERIES),
)
PART_OF = {"log": "subscriptions", "sql-run": "sql"}


def page(permission: str, *, method: str = "GET") -> Callable[[View], Guarded]:
    """A view behind the gate. One that is no coroutine works in the thread that talks to the database."""

    def guard(view: View) -> Guarded:
        answer: Any = view if inspect.iscoroutinefunction(view) else sync_to_async(view)

        @functools.wraps(view)
        async def guarded(request: HttpRequest, **words: Any) -> HttpResponseBase:
            response: HttpResponseBase | None = await sync_to_async(_turned_away)(request, permission, method)
            return sealed(response or await answer(request, **words))

        return guarded

    return guard


def is_fragment(request: HttpRequest) -> bool:
    """Whether a page that is open asks for a part of itself."""
    return request.headers.get("HX-Request") == "true"


def show(request: HttpRequest, template: str, context: dict[str, Any] | None = None, *, status: int = 200) -> Any:
    """A whole page, with what all of them have; asks the database."""
    namespace = chosen.namespace(request)
    name = request.resolver_match.url_name if request.resolver_match else ""
    here = next((one for one in LINKS if one.name == PART_OF.get(name or "", name)), LINKS[0])
    shared = {
        "links": [one for one in LINKS if _may(request, one.permission)],
        "here": here,
        "namespace": namespace,
        "namespaces": chosen.offered(namespace),
    }
    return render(request, f"dashboard/{template}", shared | (context or {}), status=status)


def sealed(response: HttpResponseBase) -> HttpResponseBase:
    response["Content-Security-Policy"] = POLICY
    response["Cache-Control"] = "no-store"
    return response


def _turned_away(request: HttpRequest, permission: str, method: str) -> HttpResponseBase | None:
    user: Any = request.user
    if not (user.is_active and user.is_staff):
        if is_fragment(request):  # the login went away under an open page, which then goes there as a whole
            return HttpResponse(status=204, headers={"HX-Refresh": "true"})
        return redirect_to_login(request.get_full_path(), reverse("admin:login"))
    if request.method not in (method, "HEAD" if method == "GET" else method):
        return HttpResponseNotAllowed([method])
    if not _may(request, permission):
        refused: HttpResponse = show(request, "refused.html", {"permission": permission}, status=403)
        return refused
    return None


def _may(request: HttpRequest, permission: str) -> bool:
    return bool(request.user.has_perm(permission))
