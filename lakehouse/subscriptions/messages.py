"""Events become messages: one each, or many in one for a subscription that wants batches.

A message of a batch is open until it is full, or has waited for `batch_ms`; more events join it then. Who sends it
closes it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from lakehouse.subscriptions import rows
from lakehouse.subscriptions.models import Delivery, DeliveryState, Subscription, new_uid
from lakehouse.subscriptions.stream import Told

MESSAGE_BYTES_MAX = 1024 * 1024
"""An event that is larger alone is a message alone."""


class Draft(NamedTuple):
    """A message that is no row yet, by its columns."""

    subscription_id: int
    uid: str
    commit_number: int
    events: bytes
    event_count: int
    is_open: bool
    next_attempt_ms: int
    created_ms: int
    state: str = DeliveryState.PENDING.value
    attempts_made: int = 0
    reason: str = ""
    last_error: str = ""


class _Named(msgspec.Struct):
    id: str


def drafts_of(one: Subscription, told: Sequence[Told], *, now_ms: int) -> list[Draft]:
    """New messages with these events, in their order."""
    return [_draft(one, some, now_ms=now_ms) for some in _parts(told, one.batch_events)]


def write(drafts: Iterable[Draft]) -> None:
    """In the caller's transaction."""
    rows.insert(Delivery, [name.removesuffix("_id") for name in Draft._fields], drafts)


def joined(one: Subscription, told: list[Told], *, now_ms: int) -> list[Told]:
    """Let as many as fit join the open message, in the caller's transaction; returns the others."""
    waiting = Delivery.objects.select_for_update().filter(subscription=one, state=DeliveryState.PENDING, is_open=True)
    found = waiting.order_by("-pk").first()
    if found is None:
        return told
    room = MESSAGE_BYTES_MAX - len(found.events)
    count = 0
    for event in told[: max(0, one.batch_events - found.event_count)]:
        room -= len(event.event.body) + 1
        if room < 0:
            break
        count += 1
    if count:
        found.events = b"%b,%b]" % (bytes(found.events)[:-1], _list(told[:count])[1:-1])
        found.event_count += count
        found.commit_number = told[count - 1].commit_number
    if found.event_count >= one.batch_events or count < len(told):
        found.is_open, found.next_attempt_ms = False, now_ms
    found.save(update_fields=["events", "event_count", "commit_number", "is_open", "next_attempt_ms"])
    return told[count:]


def without(events: bytes, delivered: frozenset[str], *, event_count: int) -> tuple[bytes, int]:
    """What is left of a message when its receiver took some, and how many that are: all where nobody can tell them
    apart, as where a child wrote two ids into one.
    """
    try:
        every = [bytes(one) for one in msgspec.json.decode(events, type=list[msgspec.Raw])]
        kept = [one for one in every if msgspec.json.decode(one, type=_Named).id not in delivered]
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return events, event_count
    return b"[" + b",".join(kept) + b"]", len(kept)


def _draft(one: Subscription, told: Sequence[Told], *, now_ms: int) -> Draft:
    is_open = len(told) < one.batch_events
    return Draft(
        subscription_id=one.pk,
        uid=new_uid(),
        commit_number=told[-1].commit_number,
        events=_list(told),
        event_count=len(told),
        is_open=is_open,
        next_attempt_ms=now_ms + (one.batch_ms if is_open else 0),
        created_ms=now_ms,
    )


def _parts(told: Sequence[Told], most: int) -> list[list[Told]]:
    parts: list[list[Told]] = []
    size_bytes = 0
    for one in told:
        size_bytes += len(one.event.body) + 1
        if not parts or len(parts[-1]) >= most or size_bytes > MESSAGE_BYTES_MAX:
            parts.append([])
            size_bytes = len(one.event.body) + 1
        parts[-1].append(one)
    return parts


def _list(told: Sequence[Told]) -> bytes:
    return b"[" + b",".join(one.event.body for one in told) + b"]"
