"""What is done to subscriptions and dead letters from outside: by the API, the admin and the command.

A delivering process reads these rows before it acts and compares them when it writes, so nobody has to be told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from lakehouse.models import Parent
from lakehouse.setting import listed
from lakehouse.subscriptions import events, patterns, places, terms
from lakehouse.subscriptions.models import (
    Delivery,
    DeliveryState,
    Subscription,
    SubscriptionState,
    TargetKind,
    new_uid,
)
from lakehouse.subscriptions.patterns import PatternIndex

UNSUBSCRIBED = "unsubscribed"
Subscriptions = QuerySet[Subscription]


class TooMany(Exception):
    """A parent has as many subscriptions, or as wide ones, as it may."""


def allowed() -> terms.Allowed:
    return terms.Allowed.of(settings.EVODB.webhook_allowed, listed(settings.EVODB.subscription_tasks))


def complaints(fields: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with these fields of a subscription, by their names."""
    given = {name: value for name, value in fields.items() if value is not None}
    return terms.complaints(given, allowed())


def subscribe(
    parent: Parent, fields: Mapping[str, Any], *, now_ms: int, start: places.Start | None = None
) -> Subscription:
    """A new one, which starts now or there. The fields are without a complaint. Raises TooMany."""
    with transaction.atomic():
        locked = Parent.objects.select_for_update().get(pk=parent.pk)
        _check_room(locked, fields.get("pattern", ""))
        made = Subscription(parent=locked, created_ms=now_ms, **fields)
        place_now(made)
        if start is not None:
            made.commit_number, made.from_ms = start.place.commit_number, start.from_ms
        made.save()
    return made


def _check_room(parent: Parent, pattern: str, *, but: int = 0) -> None:
    """For one more that is not disabled. Raises TooMany."""
    most = settings.EVODB.subscriptions_max
    living = Subscription.objects.filter(parent=parent).exclude(state=SubscriptionState.DISABLED).count()
    if living >= most:
        raise TooMany(f"parent {parent.name!r} has {living} of {most} subscriptions (EVODB_SUBSCRIPTIONS_MAX)")
    if (full := crowded(parent, pattern, but=but)) is not None:
        raise TooMany(full)


def crowded(parent: Parent, pattern: str, *, but: int = 0) -> str | None:
    """Why a parent has no room for this pattern, or None. `but` is the subscription that has it."""
    if not (wanted := patterns.wide_chars(pattern)):
        return None
    living = Subscription.objects.filter(parent=parent, pattern__contains="*").exclude(state=SubscriptionState.DISABLED)
    others = set(living.exclude(pk=but).values_list("pattern", flat=True)) - {pattern}
    letters = sum(patterns.wide_chars(one) for one in others)
    if letters + wanted <= patterns.WIDE_CHARS_MAX:
        return None
    return (
        f"patterns of parent {parent.name!r} with several stars in a segment, or with several **, have {letters} of "
        f"{patterns.WIDE_CHARS_MAX} characters and {pattern!r} has {wanted}; wanted one * in a segment and one **"
    )


def hearers(parent: Parent, event_type: str, table: str) -> list[Subscription]:
    """The active subscriptions that an event of this type is for."""
    index: PatternIndex[Subscription] = PatternIndex()
    rows = Subscription.objects.filter(parent=parent, state=SubscriptionState.ACTIVE, table__in=("", table))
    for one in rows.select_related("parent"):
        index.add(one.pattern, one)
    return sorted(index.walk(event_type), key=lambda one: one.pk)


def place_now(one: Subscription) -> None:
    """Everything committed from now on is for it."""
    one.commit_number, one.batch_id, one.batch_entries, one.from_ms = one.parent.commit_number, 0, 0, 0


def put_at(which: Subscriptions, start: places.Start) -> int:
    """Tell them again from there on; a disabled one is active again. Raises TooMany where there is no room for it."""
    place = start.place._asdict() | {"from_ms": start.from_ms}
    with transaction.atomic():
        _revive(which, lambda parent: place)
        living = which.exclude(state=SubscriptionState.DISABLED)
        return living.update(**place, state=SubscriptionState.ACTIVE, state_reason="")


def history_days() -> int:
    days: int = settings.EVODB.history_days
    return days


def pause(which: Subscriptions) -> int:
    return which.filter(state=SubscriptionState.ACTIVE).update(state=SubscriptionState.PAUSED, state_reason="")


def resume(which: Subscriptions) -> int:
    """From its place when it was paused, from now when it had lost it. Raises TooMany where there is no room for it."""
    with transaction.atomic():
        paused = which.filter(state=SubscriptionState.PAUSED).update(state=SubscriptionState.ACTIVE, state_reason="")
        return paused + _revive(
            which,
            lambda parent: {"commit_number": parent.commit_number, "batch_id": 0, "batch_entries": 0, "from_ms": 0},
        )


def _revive(which: Subscriptions, place: Callable[[Parent], dict[str, int]]) -> int:
    """Those that are disabled, in the caller's transaction: they count again, and so do their patterns."""
    revived = 0
    for one in which.filter(state=SubscriptionState.DISABLED).order_by("pk"):
        parent = Parent.objects.select_for_update().get(pk=one.parent_id)
        _check_room(parent, one.pattern, but=one.pk)
        disabled = Subscription.objects.filter(pk=one.pk, state=SubscriptionState.DISABLED)
        revived += disabled.update(state=SubscriptionState.ACTIVE, state_reason="", **place(parent))
    return revived


def unsubscribe(which: Subscriptions) -> int:
    """What is on its way already stays where it is until it resumes."""
    living = which.exclude(state=SubscriptionState.DISABLED)
    return living.update(state=SubscriptionState.DISABLED, state_reason=UNSUBSCRIBED)


def test_fire(one: Subscription, *, now_ms: int) -> Delivery:
    """Queue a message as any other, with one event of a type of its own."""
    uid = new_uid()
    event = events.test_event(uid, parent=one.parent.name, now_ms=now_ms)
    return Delivery.objects.create(
        subscription=one,
        uid=uid,
        commit_number=0,
        events=orjson.dumps([event]),
        next_attempt_ms=now_ms,
        created_ms=now_ms,
    )


test_fire.__test__ = False  # type: ignore[attr-defined]  # its name is no test's


def retry(which: QuerySet[Delivery], *, now_ms: int) -> int:
    """Queue dead letters again, as the same messages; each stays a letter until it is delivered."""
    return which.filter(state=DeliveryState.DEAD).update(
        state=DeliveryState.PENDING, attempts_made=0, next_attempt_ms=now_ms, finished_ms=None
    )


def target_of(one: Subscription) -> str:
    """What the target is called where it is: a group is ours alone, so that nobody speaks in another's name."""
    return events.group_of(one.parent_id, one.target) if one.target_kind == TargetKind.CHANNELS else one.target
