"""The todo app over HTTP: JSON for the page and for programs. A change is a put or a delete, and nothing else."""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_safe

from rpc import traced
from todo import lake
from todo.documents import events
from todo.documents import todos as every

TITLE_CHARS_MAX = 200
View = Callable[..., HttpResponse]


class Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def answering(view: View) -> View:
    """What goes wrong is said as JSON."""

    @functools.wraps(view)
    def answered(request: HttpRequest, **path: str) -> HttpResponse:
        try:
            return view(request, **path)
        except Refused as exc:
            return JsonResponse({"error": str(exc)}, status=exc.status)
        except lake.LakeError as exc:
            return JsonResponse({"error": str(exc)}, status=503)

    return answered


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "page.html")


@require_http_methods(["GET", "POST"])
@answering
def todos(request: HttpRequest) -> HttpResponse:
    if request.method == "GET":
        with events.outbox.transaction():
            ids = every.keys()
            return JsonResponse({"todos": [_document(doc_id) for doc_id in ids]})
    given = _given(request, title=str)
    if "title" not in given:
        raise Refused(400, "title is missing")
    doc_id = uuid.uuid4().hex[:8]
    every.put(doc_id, {"title": given["title"], "done": False})
    return _shown(doc_id, status=201)


@require_http_methods(["GET", "PATCH", "DELETE"])
@answering
def todo(request: HttpRequest, doc_id: str) -> HttpResponse:
    with events.outbox.transaction():  # nobody changes it between the look and the change
        if not every.has(doc_id):
            raise Refused(404, f"there is no todo {doc_id!r}")
        if request.method == "PATCH":
            every.put(doc_id, every.get(doc_id) | _given(request, title=str, done=bool))
        if request.method == "DELETE":
            every.delete(doc_id)
            return HttpResponse(status=204)
        return _shown(doc_id)


@require_safe
@answering
def history(request: HttpRequest, doc_id: str) -> HttpResponse:
    return JsonResponse({"changes": lake.history(doc_id)})


@require_http_methods(["POST"])
@answering
@traced(events, "todo.restore")
def restore(request: HttpRequest, doc_id: str) -> HttpResponse:
    """Undo: as it was at a bookmark or at a time, says the lake; it is written back as a change like any other."""
    given = _given(request, bookmark=str, at=str)
    if len(given) != 1 or not _is_moment(given.get("at", "2026-01-31T12:00:00Z")):
        raise Refused(400, "wanted a bookmark, or at, a time in ISO 8601")
    document = lake.as_of(doc_id, **given)
    if document is None:
        raise Refused(404, f"there was no todo {doc_id!r} then")
    every.put(doc_id, document)
    return _shown(doc_id)


def _shown(doc_id: str, *, status: int = 200) -> HttpResponse:
    return JsonResponse(_document(doc_id), status=status)


def _document(doc_id: str) -> dict[str, Any]:
    return {"id": doc_id} | every.get(doc_id)


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text) is not None
    except ValueError:
        return False


def _given(request: HttpRequest, **kinds: type) -> dict[str, Any]:
    """The fields of the body. A page of another site cannot send JSON without asking first, so no token is needed."""
    if request.content_type != "application/json":
        raise Refused(400, f"Content-Type is {request.content_type!r}, wanted application/json")
    try:
        found = json.loads(request.body)
    except ValueError:
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(found, dict) or set(found) - set(kinds):
        raise Refused(400, f"wanted an object with {' and '.join(kinds)}, and nothing else")
    for name, value in found.items():
        if not isinstance(value, kinds[name]) or (isinstance(value, str) and not 0 < len(value) <= TITLE_CHARS_MAX):
            wanted = "true or false" if kinds[name] is bool else f"1 to {TITLE_CHARS_MAX} characters"
            raise Refused(400, f"{name} is {str(value)[:60]!r}, wanted {wanted}")
    return found
