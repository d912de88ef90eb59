"""Where nothing is: a page for who looks with a browser, JSON for who asks with a program."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.views.defaults import page_not_found

PATH_CHARS_SHOWN = 200
SOCKETS = "/ws"


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's `handler404`."""
    if request.path == SOCKETS or request.path.startswith(f"{SOCKETS}/"):
        text = (
            f"{request.path[:PATH_CHARS_SHOWN]} is for WebSockets of children; `evodb ping --parent ws://...` tries it"
        )
        return JsonResponse({"error": text, "code": "NOT_FOUND"}, status=404)
    if is_for_people(request):
        return page_not_found(request, exception)
    text = f"there is nothing at {request.path[:PATH_CHARS_SHOWN]}; /docs shows every endpoint"
    return JsonResponse({"error": text, "code": "NOT_FOUND"}, status=404)


def is_for_people(request: HttpRequest) -> bool:
    if request.path.startswith((reverse("admin:index"), reverse("dashboard:overview"))):
        return True
    try:
        return request.get_preferred_type(["application/json", "text/html"]) == "text/html"
    except (LookupError, ValueError):  # a character set that the header names, and nobody has
        return False
