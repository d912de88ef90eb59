"""Subscriptions: how each stands, a way to pause it, and what became of its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.db.models import Count, QuerySet, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse

from lakehouse import clock
from lakehouse.admin.shown import moment_shown
from lakehouse.dashboard import chosen, gate
from lakehouse.dashboard.gate import page
from lakehouse.subscriptions import desk
from lakehouse.subscriptions.models import Attempt, Delivery, DeliveryState, Subscription

SHOWN_MAX = 200
MESSAGES_SHOWN = 50
ATTEMPTS_MAX = 1000
ID_MAX = 2**63 - 1


@page(gate.SUBSCRIPTIONS)
def listing(request: HttpRequest) -> HttpResponse:
    rows = Subscription.objects.filter(parent__namespace=chosen.namespace(request)).select_related("parent")
    found = list(rows.order_by("pk")[: SHOWN_MAX + 1])
    context = {
        "subscriptions": _standing(found[:SHOWN_MAX]),
        "more": len(found) > SHOWN_MAX,
        "may_steer": request.user.has_perm(gate.STEER),
        "may_read": request.user.has_perm(gate.DELIVERIES),
    }
    return _html(gate.show(request, "subscriptions.html", context))


@page(gate.DELIVERIES)
def log(request: HttpRequest, pk: int) -> HttpResponse:
    """The messages of one, the latest first, each with its attempts."""
    one = get_object_or_404(Subscription.objects.select_related("parent"), pk=min(pk, ID_MAX))
    before = request.GET.get("before", "")
    rows = one.deliveries.defer("events").order_by("-pk")
    if before.isascii() and before.isdecimal() and len(before) < 19:
        rows = rows.filter(pk__lt=int(before))
    found = list(rows[: MESSAGES_SHOWN + 1])
    context = {
        "one": _standing([one])[0],
        "deliveries": _with_attempts(found[:MESSAGES_SHOWN]),
        "next": found[MESSAGES_SHOWN - 1].pk if len(found) > MESSAGES_SHOWN else None,
        "is_first": not before,
    }
    return _html(gate.show(request, "log.html", context))


@page(gate.STEER, method="POST")
def pause(request: HttpRequest, pk: int) -> HttpResponse:
    return _steer(request, pk, desk.pause, "is paused; it keeps its place", "was not active")


@page(gate.STEER, method="POST")
def resume(request: HttpRequest, pk: int) -> HttpResponse:
    return _steer(request, pk, desk.resume, "goes on", "was active already")


def _steer(
    request: HttpRequest, pk: int, act: Callable[[QuerySet[Subscription]], int], done: str, not_done: str
) -> HttpResponse:
    one = get_object_or_404(Subscription, pk=min(pk, ID_MAX))
    try:
        said = done if act(Subscription.objects.filter(pk=one.pk)) else not_done
        messages.success(request, f"{one.name} {said}.")
    except desk.TooMany as exc:
        messages.error(request, f"{one.name} stays as it was: {exc}.")
    address = reverse("dashboard:subscriptions")
    return HttpResponseRedirect(f"{address}?{chosen.query(request)}")


def _standing(found: list[Subscription]) -> list[dict[str, Any]]:
    """With what is on its way and what was given up, in two questions for all of them."""
    of_these = Delivery.objects.filter(subscription__in=found).order_by().values_list("subscription")
    pending = dict(of_these.filter(state=DeliveryState.PENDING).annotate(sum=Sum("event_count")))
    letters = dict(of_these.filter(dead_ms__isnull=False).annotate(count=Count("pk")))
    now_ms = clock.now_ms()
    return [
        {
            "row": one,
            "behind": max(0, one.parent.commit_number - one.commit_number),
            "pending": pending.get(one.pk, 0),
            "letters": letters.get(one.pk, 0),
            "delivered": moment_shown(one.last_delivered_ms, now_ms=now_ms),
        }
        for one in found
    ]


def _with_attempts(found: list[Delivery]) -> list[dict[str, Any]]:
    now_ms = clock.now_ms()
    attempts: dict[int, list[dict[str, Any]]] = {}
    for one in Attempt.objects.filter(delivery__in=found).order_by("-pk")[:ATTEMPTS_MAX]:
        said = {"row": one, "started": moment_shown(one.started_ms, now_ms=now_ms)}
        attempts.setdefault(one.delivery_id, []).append(said)
    return [
        {
            "row": one,
            "made": moment_shown(one.created_ms, now_ms=now_ms),
            "due": moment_shown(one.next_attempt_ms, now_ms=now_ms) if one.state == DeliveryState.PENDING else "",
            "attempts": attempts.get(one.pk, []),
        }
        for one in found
    ]


def _html(found: Any) -> HttpResponse:
    shown: HttpResponse = found
    return shown
