"""/subscriptions, for keys with the scope `subscribe` or `admin`.

A key reaches the subscriptions of the parents and namespaces it is for. To everybody else they do not exist: what is
another tenant's and what never was get the same answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from asgiref.sync import sync_to_async
from django.db.models import Count, Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from ninja import Query, Router, Schema, Status
from ninja.decorators import decorate_view
from pydantic import Field

from lakehouse.clock import now_ms
from lakehouse.http import pages
from lakehouse.models import Parent
from lakehouse.parent.grants import ADMIN, SUBSCRIBE
from lakehouse.subscriptions import desk, documents, places
from lakehouse.subscriptions.documents import (
    ID_MAX,
    SHOWN_MAX,
    Change,
    Done,
    Letters,
    Listed,
    Log,
    NewSubscription,
    OneLetter,
    Problem,
    Sendings,
    Standing,
    Start,
    State,
    Which,
)
from lakehouse.subscriptions.models import Delivery, DeliveryState, Subscription
from lakehouse.subscriptions.visitors import (
    KeyAuth,
    delivery_of,
    meant,
    problem,
    reached,
    refuse_others,
    room,
    subscription_of,
)

ERRORS = dict.fromkeys((400, 401, 403, 404, 409, 429, 503), Problem)
EVENT_TYPE_CHARS_MAX = 128


router = Router(auth=KeyAuth(SUBSCRIBE, ADMIN, of_all_parents=True), tags=["subscriptions"])


class Page(Schema):
    parent: str | None = Field(None, description="Only of this parent.")
    after: int = Field(0, ge=0, le=ID_MAX, description="Only those behind this id.")
    limit: int = Field(100, ge=1, le=SHOWN_MAX)


class Sent(Schema):
    state: State | None = Field(None, description="Only those in this state.")
    after: int = Field(0, ge=0, le=ID_MAX, description="Only those behind this id.")
    limit: int = Field(100, ge=1, le=SHOWN_MAX)


class Match(Schema):
    parent: str | None = None
    event_type: str = Field(alias="eventType", min_length=1, max_length=EVENT_TYPE_CHARS_MAX)
    table: str = ""


def route(method: str, path: str, document: type[Schema], summary: str, *, status: int = 200) -> Callable[..., Any]:
    """An operation that works in the thread which talks to the database."""

    def register(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        async def work(*args: Any, **values: Any) -> Any:
            return await sync_to_async(view)(*args, **values)

        name = f"subscriptions_{view.__name__}"
        router.api_operation(
            [method], path, response={status: document, **ERRORS}, summary=summary, operation_id=name, by_alias=True
        )(decorate_view(pages.readable)(work))
        return work

    return register


@route("POST", "/subscribe", Done, "Subscribe", status=201)
def subscribe(request: HttpRequest, body: NewSubscription) -> Status[Done]:
    """Starts now, at a moment, or behind a snapshot. The answer has the secret that signs, this once."""
    parent = meant(request, body.parent)
    fields = body.model_dump(exclude={"parent", "start_at", "start_snapshot"})
    _check(fields)
    with room():
        made = desk.subscribe(parent, fields, now_ms=now_ms(), start=_start(parent, body))
    return Status(201, Done(subscription=documents.shown(made, secret=True)))


@route("POST", "/unsubscribe", Done, "Unsubscribe")
def unsubscribe(request: HttpRequest, body: Which) -> Done:
    """Nothing is sent any more. It stays known, with its log, and has no place."""
    return _do(request, body.subscription_id, desk.unsubscribe)


@route("POST", "/reactivate", Done, "Go on")
def reactivate(request: HttpRequest, body: Which) -> Done:
    """A paused one from its place, a disabled one from now."""
    return _do(request, body.subscription_id, desk.resume)


@route("POST", "/pause", Done, "Keep the place")
def pause(request: HttpRequest, body: Which) -> Done:
    """Nothing is sent until it is reactivated; then it goes on from its place."""
    return _do(request, body.subscription_id, desk.pause)


@route("GET", "/list", Listed, "List")
def listed(request: HttpRequest, query: Query[Page]) -> Listed:
    """Those that the key reaches, the oldest first."""
    found = _page(reached(request, query.parent), query)
    subscriptions = [documents.shown(one) for one in found[: query.limit]]
    return Listed(subscriptions=subscriptions, next=_next(found, query.limit))


@route("GET", "/match", Listed, "Who would hear?")
def match(request: HttpRequest, query: Query[Match]) -> Listed:
    """The active subscriptions of a parent that an event of this type is for."""
    parent = meant(request, query.parent)
    fitting = desk.hearers(parent, query.event_type, query.table)
    return Listed(subscriptions=[documents.shown(one) for one in fitting], next=None)


@route("GET", "/status/{int:pk}", Standing, "How far?")
def status(request: HttpRequest, pk: int) -> Standing:
    """Its place, what is on its way, and what was given up."""
    one = subscription_of(request, pk)
    counted = Delivery.objects.filter(subscription=one).aggregate(
        pending=Sum("event_count", filter=Q(state=DeliveryState.PENDING)),
        letters=Count("pk", filter=Q(dead_ms__isnull=False)),
    )
    return Standing(
        subscription=documents.shown(one),
        behind=max(0, one.parent.commit_number - one.commit_number),
        pending_events=counted["pending"] or 0,
        delivered_events=one.delivered_events,
        dead_events=one.dead_events,
        dead_letters=counted["letters"],
        last_delivered_ms=one.last_delivered_ms,
    )


@route("GET", "/dead-letters", Letters, "Dead letters")
def dead_letters(request: HttpRequest, query: Query[Page]) -> Letters:
    """Messages that were given up, of all subscriptions that the key reaches."""
    return _letters(reached(request, query.parent), query)


@route("GET", "/dead-letters/{int:pk}", OneLetter, "One of them")
def dead_letter(request: HttpRequest, pk: int) -> HttpResponse:
    """With the events it holds, as they were sent."""
    said = documents.whole_letter(delivery_of(request, pk, dead=True))
    return HttpResponse(said, content_type="application/json")


@route("POST", "/dead-letters/{int:pk}/retry", OneLetter, "Try it again")
def retry(request: HttpRequest, pk: int) -> OneLetter:
    """The same message under the same id. It stays a letter until it is delivered."""
    one = delivery_of(request, pk, dead=True)
    if not desk.retry(Delivery.objects.filter(pk=one.pk), now_ms=now_ms()):
        raise problem(409, f"dead letter {pk} is being tried already")
    one.refresh_from_db()
    return OneLetter(dead_letter=documents.letter(one))


@route("GET", "/deliveries/{int:pk}/logs", Log, "Its attempts")
def logs(request: HttpRequest, pk: int) -> Log:
    """The latest first. A delivery is a message: the number of a dead letter is one."""
    one = delivery_of(request, pk)
    attempts = [documents.logged(row) for row in one.attempts.order_by("-pk")[:SHOWN_MAX]]
    return Log(delivery_id=one.pk, message_id=f"msg_{one.uid}", state=one.state, attempts=attempts)


@route("GET", "/{int:pk}", Done, "One")
def show(request: HttpRequest, pk: int) -> Done:
    """Everything but its secret."""
    return Done(subscription=documents.shown(subscription_of(request, pk)))


@route("PUT", "/{int:pk}", Done, "Change it")
def change(request: HttpRequest, pk: int, body: Change) -> Done:
    """Holds for events it has not come to; messages that are made already stay as they are."""
    one = subscription_of(request, pk)
    fields = {name: value for name, value in body.model_dump().items() if value is not None}
    if "target" in fields or "target_kind" in fields:
        fields = {"target": one.target, "target_kind": one.target_kind} | fields
    _check(fields)
    if (full := desk.crowded(one.parent, fields.get("pattern", ""), but=one.pk)) is not None:
        raise problem(409, full)
    if fields:
        Subscription.objects.filter(pk=one.pk).update(**fields)
    return Done(subscription=documents.shown(subscription_of(request, pk)))


@route("DELETE", "/{int:pk}", Done, "Delete it")
def delete(request: HttpRequest, pk: int) -> Done:
    """With its messages, its letters and its log."""
    one = subscription_of(request, pk)
    said = Done(subscription=documents.shown(one))
    one.delete()
    return said


@route("POST", "/{int:pk}/replay", Done, "Tell it again")
def replay(request: HttpRequest, pk: int, body: Start) -> Done:
    """From a moment or behind a snapshot on. Events have the ids they had, messages have new ones."""
    one = subscription_of(request, pk)
    start = _start(one.parent, body)
    if start is None:
        raise problem(400, "startAt or startSnapshot is required")
    with room():
        desk.put_at(Subscription.objects.filter(pk=pk), start)
    return Done(subscription=documents.shown(subscription_of(request, pk)))


@route("GET", "/{int:pk}/dead-letters", Letters, "Its dead letters")
def dead_letters_of(request: HttpRequest, pk: int, query: Query[Page]) -> Letters:
    """Messages that were given up, of this one."""
    return _letters(Subscription.objects.filter(pk=subscription_of(request, pk).pk), query)


@route("GET", "/{int:pk}/deliveries", Sendings, "Its messages")
def deliveries(request: HttpRequest, pk: int, query: Query[Sent]) -> Sendings:
    """The oldest first, as long as they are remembered. The log of each is at /deliveries/:id/logs."""
    rows = Delivery.objects.filter(subscription=subscription_of(request, pk), pk__gt=query.after)
    chosen = rows if query.state is None else rows.filter(state=query.state)
    found = list(chosen.defer("events").order_by("pk")[: query.limit + 1])
    return Sendings(deliveries=[documents.sent(one) for one in found[: query.limit]], next=_next(found, query.limit))


refuse_others(router)


def _page(rows: QuerySet[Subscription], query: Page) -> list[Subscription]:
    behind = rows.filter(pk__gt=query.after).select_related("parent")
    return list(behind.order_by("pk")[: query.limit + 1])


def _letters(subscriptions: QuerySet[Subscription], query: Page) -> Letters:
    rows = Delivery.objects.filter(subscription__in=subscriptions, dead_ms__isnull=False, pk__gt=query.after)
    found = list(rows.defer("events").order_by("pk")[: query.limit + 1])
    return Letters(dead_letters=[documents.letter(one) for one in found[: query.limit]], next=_next(found, query.limit))


def _next(found: list[Any], limit: int) -> int | None:
    return found[limit - 1].pk if len(found) > limit else None


def _do(request: HttpRequest, pk: int, act: Callable[[QuerySet[Subscription]], int]) -> Done:
    one = subscription_of(request, pk)
    with room():
        act(Subscription.objects.filter(pk=one.pk))
    return Done(subscription=documents.shown(subscription_of(request, pk)))


def _check(fields: dict[str, Any]) -> None:
    if wrong := desk.complaints(fields):
        raise problem(400, "; ".join(wrong.values()), wrong)


def _start(parent: Parent, body: Start) -> places.Start | None:
    """None is now."""
    if body.start_at is not None and body.start_snapshot is not None:
        raise problem(400, "startAt and startSnapshot are two places; wanted one of them")
    try:
        if body.start_snapshot is not None:
            return places.behind_snapshot(parent, body.start_snapshot)
        if body.start_at is not None:
            return places.at_moment(parent, _ms(body.start_at), history_days=desk.history_days(), now_ms=now_ms())
    except places.NoSuchPlace as exc:
        raise problem(400, str(exc)) from None
    return None


def _ms(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise problem(400, f"startAt is {text[:60]!r}, wanted a moment such as 2026-11-21T08:00:00Z") from None
