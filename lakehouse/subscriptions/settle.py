"""What attempts leave behind: the message delivered, due again, or a dead letter; and one line for each in the log.

Messages are taken from their rows and settled on their rows; a row that somebody else has settled meanwhile, or that is
gone with its subscription, is left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from django.db import transaction
from django.db.models import F

from lakehouse.subscriptions import messages, retries, rows, totals
from lakehouse.subscriptions.models import Attempt, Delivery, DeliveryState, Subscription, SubscriptionState, new_uid
from lakehouse.subscriptions.retries import Again, Outcome, Reason
from lakehouse.subscriptions.targets import Message
from lakehouse.subscriptions.totals import Sums

log = logging.getLogger(__name__)

INTEGER_MAX = 2**31 - 1
NO_BOUND = 2**62
IDS_PER_QUERY = 500


class Tried(NamedTuple):
    message: Message
    started_ms: int
    duration_ms: int
    outcome: Outcome


@dataclass(slots=True)
class _Turn:
    """One transaction: the time, chance, and what it adds up to."""

    now_ms: int
    chance: Callable[[], float]
    sums: dict[int, Sums] = field(default_factory=dict)
    letters: dict[tuple[int, Reason], list[Tried]] = field(default_factory=dict)
    """What was given up, by subscription and reason."""

    def sums_of(self, message: Message) -> Sums:
        return self.sums.setdefault(message.to.parent_id, Sums())

    def tell(self) -> None:
        """A line for each subscription: a target that is away gives up a thousand messages in a moment."""
        for (_, reason), tried in self.letters.items():
            last, to = tried[-1], tried[-1].message.to
            what = f"{last.message.message_id} of {to} is a dead letter"
            if len(tried) > 1:
                what = f"{len(tried)} messages of {to} are dead letters, the last is {last.message.message_id}"
            log.warning("%s (%s): %s", what, reason, last.outcome.error)


class Chosen(NamedTuple):
    """Messages of a subscription, by id, which of them are open, how large they are, and whether no other is due."""

    ids: list[int]
    opened: list[int]
    size_bytes: int
    is_all: bool


def choose(
    subscription_id: int,
    *,
    room: int,
    but: Collection[int],
    now_ms: int,
    room_bytes: int = NO_BOUND,
    ahead: int = 0,
    ahead_bytes: int = 0,
) -> Chosen:
    """So many messages that are due, the longest waiting first, without those that are in memory already, until they
    have so many bytes; and some ahead, as long as they are small.
    """
    due = rows.due(subscription_id, now_ms=now_ms, most=room + ahead + len(but)) if room + ahead else []
    sized = [one for one in due if one[0] not in but][: room + ahead]
    chosen = []
    for one in sized[:room]:
        if room_bytes <= 0:
            break
        room_bytes -= one[2]
        chosen.append(one)
    for one in sized[room:] if room_bytes > 0 else ():
        if (ahead_bytes := ahead_bytes - one[2]) < 0:
            break
        chosen.append(one)
    return Chosen(
        ids=[pk for pk, *_ in chosen],
        opened=[pk for pk, is_open, _ in chosen if is_open],
        size_bytes=sum(size_bytes for *_, size_bytes in chosen),
        is_all=len(chosen) == len(sized) < room + ahead,
    )


def take(chosen: Sequence[tuple[Subscription, Chosen]]) -> dict[int, list[Message]]:
    """What these messages are, by subscription. They are open no more."""
    of = {pk: to for to, some in chosen for pk in some.ids}
    for opened in _parts([pk for _, some in chosen for pk in some.opened]):
        Delivery.objects.filter(pk__in=opened).update(is_open=False)
    found: dict[int, Message] = {}
    names = ("pk", "uid", "events", "event_count", "attempts_made", "created_ms")
    for ids in _parts(list(of)):
        pending = Delivery.objects.filter(pk__in=ids, state=DeliveryState.PENDING)
        for pk, uid, events, count, attempts_made, created_ms in pending.values_list(*names):
            found[pk] = Message(pk, uid, bytes(events), count, attempts_made, created_ms, of[pk])
    return {to.pk: [found[pk] for pk in some.ids if pk in found] for to, some in chosen}


def _parts(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[start : start + IDS_PER_QUERY] for start in range(0, len(ids), IDS_PER_QUERY)]


def record(tried: Sequence[Tried], *, now_ms: int, chance: Callable[[], float]) -> None:
    """All of these in one transaction."""
    by_id = {one.message.delivery_id: one for one in tried}
    with transaction.atomic():
        pending = Delivery.objects.select_for_update().filter(pk__in=by_id, state=DeliveryState.PENDING)
        uids = dict(pending.order_by("pk").values_list("pk", "uid"))
        still = [_storable(one) for pk, one in by_id.items() if uids.get(pk) == one.message.uid]
        turn = _Turn(now_ms, chance)
        whole = [one for one in still if one.outcome.ok and one.outcome.delivered is None]
        _delivered(whole, turn)
        for index, one in enumerate(still):
            if one.outcome.ok and one.outcome.delivered is not None:
                still[index] = _partly(one, turn)
            elif not one.outcome.ok:
                _failed(one, turn, attempts_made=one.message.attempts_made + 1)
        _note_attempts(still)
        totals.add(turn.sums)
    turn.tell()


def _storable(one: Tried) -> Tried:
    """What a stranger said, as every database takes it: a NUL would keep all that is written down with it."""
    if not one.outcome.error:
        return one
    error = one.outcome.error.encode(errors="replace").decode().replace("\0", "\ufffd")
    return one._replace(outcome=replace(one.outcome, error=error))


def _note_attempts(tried: Sequence[Tried]) -> None:
    """A line in the log for each."""
    lines = []
    for message, started_ms, duration_ms, outcome in tried:
        took_ms = min(max(0, duration_ms), INTEGER_MAX)
        lines.append((message.delivery_id, started_ms, took_ms, outcome.status, outcome.error))
    rows.insert(Attempt, ("delivery", "started_ms", "duration_ms", "status", "error"), lines)


def _delivered(tried: Sequence[Tried], turn: _Turn) -> None:
    Delivery.objects.filter(pk__in=[one.message.delivery_id for one in tried]).update(
        state=DeliveryState.DELIVERED,
        events=b"",
        attempts_made=F("attempts_made") + 1,
        finished_ms=turn.now_ms,
        dead_ms=None,
        reason="",
        last_error="",
    )
    counts: dict[int, int] = {}
    for one in tried:
        sums, message = turn.sums_of(one.message), one.message
        sums.delivered_events += message.event_count
        sums.took_ms.append(max(0, turn.now_ms - message.created_ms))
        counts[message.to.pk] = counts.get(message.to.pk, 0) + message.event_count
    _count(counts, turn.now_ms)


def _count(events: Mapping[int, int], now_ms: int) -> None:
    """Delivered events, by subscription."""
    rows.add(Subscription, "delivered_events", events.items(), last_delivered_ms=now_ms)


def _partly(one: Tried, turn: _Turn) -> Tried:
    """What was not taken is another message: under the same id a receiver would think that it has it. Returns the
    attempt as the log has it.
    """
    assert one.outcome.delivered is not None
    message = one.message
    events, left = messages.without(message.events, one.outcome.delivered, event_count=message.event_count)
    if not left:
        _delivered([one], turn)
        return one
    taken = one.message.event_count - left
    if taken:
        turn.sums_of(one.message).delivered_events += taken
        _count({one.message.to.pk: taken}, turn.now_ms)
        Delivery.objects.filter(pk=one.message.delivery_id).update(uid=new_uid(), events=events, event_count=left)
    error = f"the receiver took {taken} of {one.message.event_count} events"
    failed = one._replace(
        message=_with_count(one.message, left), outcome=Outcome(False, one.outcome.status, error=error)
    )
    _failed(failed, turn, attempts_made=1 if taken else one.message.attempts_made + 1)
    return failed


def _with_count(message: Message, count: int) -> Message:
    return replace(message, events=b"", event_count=count)


def _failed(one: Tried, turn: _Turn, *, attempts_made: int) -> None:
    to, outcome, now_ms = one.message.to, one.outcome, turn.now_ms
    turn.sums_of(one.message).failed_attempts += 1
    row = Delivery.objects.filter(pk=one.message.delivery_id)
    following = retries.next_of(
        outcome, attempts_made=attempts_made, attempts_max=to.attempts_max, chance=turn.chance()
    )
    if isinstance(following, Again):
        row.update(attempts_made=attempts_made, next_attempt_ms=now_ms + following.delay_ms, last_error=outcome.error)
        return
    again = row.filter(dead_ms__isnull=False).update(attempts_made=attempts_made)
    row.update(
        state=DeliveryState.DEAD,
        attempts_made=attempts_made,
        finished_ms=now_ms,
        reason=following.reason.value,
        last_error=outcome.error,
    )
    if not again:
        row.update(dead_ms=now_ms)
        turn.sums_of(one.message).dead_events += one.message.event_count
        Subscription.objects.filter(pk=to.pk).update(dead_events=F("dead_events") + one.message.event_count)
    turn.letters.setdefault((to.pk, following.reason), []).append(one)
    if following.reason is Reason.GONE:
        why = "the target answered 410 Gone"
        Subscription.objects.filter(pk=to.pk).update(state=SubscriptionState.DISABLED, state_reason=why)
