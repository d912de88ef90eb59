"""Who may ask about which subscriptions, and how a refusal is said: in words, with a code, and by field."""

from __future__ import annotations

from typing import Any

import orjson
from django.db.models import QuerySet
from django.http import HttpRequest

from lakehouse.http import answers
from lakehouse.http.keys import AccessKeyAuth, SentAway
from lakehouse.models import Parent
from lakehouse.parent.grants import Grant, fits
from lakehouse.subscriptions import terms
from lakehouse.subscriptions.documents import ID_MAX
from lakehouse.subscriptions.models import Delivery, Subscription

CODES = {400: "INVALID_REQUEST", 401: "AUTH_REQUIRED", 403: "FORBIDDEN", 404: "NOT_FOUND", 409: "CONFLICT"}
CODES |= {429: "RATE_LIMITED", 503: "UNAVAILABLE"}


class KeyAuth(AccessKeyAuth):
    """As everywhere, with a code beside the words."""

    async def __call__(self, request: HttpRequest) -> Grant:
        try:
            return await super().__call__(request)
        except SentAway as exc:
            said = orjson.loads(exc.response.body)
            headers = [item for item in exc.response.headers if item[0] not in (b"content-length", b"content-type")]
            said["code"] = CODES.get(exc.response.status, "ERROR")
            raise SentAway(answers.answer(exc.response.status, said, *headers)) from None


def problem(status: int, text: str, details: dict[str, Any] | None = None) -> SentAway:
    said: dict[str, Any] = {"error": text, "code": CODES[status]}
    return SentAway(answers.answer(status, said | ({"details": details} if details else {})))


def _grant(request: HttpRequest) -> Grant:
    grant: Grant = request.auth  # type: ignore[attr-defined]  # the grant
    return grant


def reaches(request: HttpRequest, parent: Parent) -> bool:
    grant = _grant(request)
    return fits(parent.name, grant.parents) and fits(parent.namespace, grant.namespaces)


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
