"""Who may ask about which subscriptions, and how a refusal is said: in words, with a code, and by field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from django.conf import settings
from django.db.models import QuerySet
from django.http import HttpRequest
from ninja import Router

from lakehouse.clock import now_ms
from lakehouse.events import homes, namespaces
from lakehouse.events.refusals import EventsRefused
from lakehouse.http import answers, pages
from lakehouse.http.keys import AccessKeyAuth, SentAway
from lakehouse.limits.refusal import Response
from lakehouse.models import Parent
from lakehouse.parent.grants import Grant, token_of
from lakehouse.parent.greeting import DEFAULT_PARENT
from lakehouse.subscriptions import desk, terms
from lakehouse.subscriptions.documents import ID_MAX
from lakehouse.subscriptions.models import Delivery, Subscription

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
Header = tuple[bytes, bytes]
CODES = {400: "INVALID_REQUEST", 401: "AUTH_REQUIRED", 403: "FORBIDDEN", 404: "NOT_FOUND", 409: "CONFLICT"}
CODES |= {405: "METHOD_NOT_ALLOWED", 429: "RATE_LIMIT_EXCEEDED", 503: "SERVICE_UNAVAILABLE"}


class KeyAuth(AccessKeyAuth):
    """As everywhere, with a code beside the words."""

    async def __call__(self, request: HttpRequest) -> Grant:
        try:
            return await super().__call__(request)
        except SentAway as exc:
            status, details = exc.response.status, orjson.loads(exc.response.body)
            code = _no_key(request) if status == 401 else CODES.get(status, "ERROR")
            raise SentAway(refusal(status, details.pop("error"), code, details, exc.response.headers)) from None


def _no_key(request: HttpRequest) -> str:
    """What is wrong with the key, as far as a stranger may hear it."""
    if token := token_of(request.headers, request.GET.dict()):
        try:
            namespaces.key_namespace(token)
        except EventsRefused as exc:
            return exc.code
        return "INVALID_API_KEY"
    return "INVALID_AUTH_FORMAT" if "authorization" in request.headers else CODES[401]


def problem(status: int, text: str, details: dict[str, Any] | None = None, headers: Iterable[Header] = ()) -> SentAway:
    return SentAway(refusal(status, text, CODES[status], details, headers))


@contextmanager
def room() -> Iterator[None]:
    """Who finds none is told so."""
    try:
        yield
    except desk.TooMany as exc:
        raise problem(409, str(exc)) from None


def refusal(
    status: int, text: str, code: str, details: dict[str, Any] | None = None, headers: Iterable[Header] = ()
) -> Response:
    """The one shape of errors: words, a code, and what else there is to say."""
    said: dict[str, Any] = {"error": text, "code": code}
    kept = [one for one in headers if one[0] not in (b"content-length", b"content-type", b"x-content-type-options")]
    return answers.answer(status, said | ({"details": details} if details else {}), *kept)


def _grant(request: HttpRequest) -> Grant:
    grant: Grant = request.auth  # type: ignore[attr-defined]  # the grant
    return grant


def reaches(request: HttpRequest, parent: Parent) -> bool:
    return _grant(request).reaches(parent=parent.name, namespace=parent.namespace)


def meant(request: HttpRequest, name: str | None) -> Parent:
    """The parent that is named. A key ns_... means that of its events, which begins to exist with whoever is first."""
    namespace = None
    if _grant(request).key_id is not None:
        namespace = namespaces.key_namespace(token_of(request.headers, request.GET.dict()))
    if namespace is None:
        return parent_of(request, DEFAULT_PARENT if name is None else name)
    own = namespaces.parent_of(namespace)
    if name in (None, own):
        try:
            homes.source(namespace, parents_max=settings.EVODB.parents_max, now_ms=now_ms())
        except EventsRefused as exc:
            raise problem(403, exc.text) from None
    return parent_of(request, own if name is None else name)


def parent_of(request: HttpRequest, name: str) -> Parent:
    found = Parent.objects.filter(name=name).first() if terms.is_storable(name) else None
    if found is None or not reaches(request, found):
        raise problem(404, f"no parent is called {name[:100]!r}")
    return found


def reached(request: HttpRequest, name: str | None = None) -> QuerySet[Subscription]:
    parents = Parent.objects.filter(subscriptions__isnull=False).distinct()
    ids = [one.pk for one in parents if reaches(request, one) and name in (None, one.name)]
    return Subscription.objects.filter(parent__in=ids)


def subscription_of(request: HttpRequest, pk: int) -> Subscription:
    found = Subscription.objects.filter(pk=pk).select_related("parent").first() if pk <= ID_MAX else None
    if found is None or not reaches(request, found.parent):
        raise problem(404, f"there is no subscription {pk}")
    return found


def delivery_of(request: HttpRequest, pk: int, *, dead: bool = False) -> Delivery:
    rows = Delivery.objects.filter(dead_ms__isnull=False) if dead else Delivery.objects.all()
    found = rows.filter(pk=pk).select_related("subscription__parent").first() if pk <= ID_MAX else None
    if found is None or not reaches(request, found.subscription.parent):
        raise problem(404, f"there is no {'dead letter' if dead else 'delivery'} {pk}")
    return found


def refuse_others(router: Router) -> None:
    """Every method that no operation of a path has hears so in the shape of all errors."""
    for path, view in list(router.path_operations.items()):
        _refuse(router, path, sorted({method for operation in view.operations for method in operation.methods}))


def _refuse(router: Router, path: str, known: list[str]) -> None:
    def said(request: HttpRequest) -> SentAway:
        if (asked := pages.preflight(request, ", ".join(known))) is not None:
            return SentAway(asked)
        text = f"{request.path} answers {' and '.join(known)}, not {request.method}"
        return problem(405, text, headers=[(b"allow", ", ".join(known).encode())])

    async def no_method(request: HttpRequest) -> None:
        raise said(request)

    async def no_method_of(request: HttpRequest, pk: int) -> None:
        raise said(request)

    others = [one for one in METHODS if one not in known]
    router.api_operation(others, path, auth=None, include_in_schema=False)(no_method_of if "pk" in path else no_method)
