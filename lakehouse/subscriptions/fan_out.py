"""From commits to messages: read what was committed, ask the patterns, write messages and move places.

Subscriptions of a parent at the same place are told together; one that is slow has a place of its own until it has
caught up. The messages of a chunk and the places behind it are one transaction, and the places are compared in it, so
an event becomes one message of a subscription, however often a process dies or is overtaken.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from django.db import Error as DatabaseError
from django.db import transaction
from django.db.models import F, Sum

from lakehouse.models import Parent
from lakehouse.subscribing import SubscriptionConfig
from lakehouse.subscriptions import messages
from lakehouse.subscriptions.models import Delivery, DeliveryState, Subscription, SubscriptionState
from lakehouse.subscriptions.patterns import PatternIndex
from lakehouse.subscriptions.stream import Chunk, Forgotten, Place, Reader, Told

log = logging.getLogger(__name__)

CHUNK_EVENTS = 500
IDS_PER_QUERY = 500
PATTERNS_KEPT_MAX = 50_000
"""Of all tenants, each in an index with the others that are at its place."""
MATCHING_S = 0.1
REST_MS = 5000


class _Overtaken(Exception):
    """A place was moved by somebody else; nothing of this chunk may stay."""


@dataclass(slots=True)
class _Index:
    """The patterns of subscriptions of one parent that are told together."""

    patterns: dict[int, tuple[str, str]]
    index: PatternIndex[tuple[int, str]] = field(default_factory=PatternIndex)

    def __post_init__(self) -> None:
        for pk, (pattern, table) in self.patterns.items():
            self.index.add(pattern, (pk, table))

    def match(self, told: Told) -> Iterator[int]:
        event = told.event
        return (pk for pk, table in self.index.match(event.type) if not table or table == event.table)


class FanOut:
    def __init__(
        self, owner: str, settings: SubscriptionConfig, reader: Reader, *, timer: Callable[[], float] = time.thread_time
    ) -> None:
        self._owner, self._settings, self._reader, self._timer = owner, settings, reader, timer
        self._indexes: OrderedDict[int, _Index] = OrderedDict()
        """By the first subscription of each; those used last are the last."""
        self._patterns_kept = 0
        self._most: dict[int, int] = {}
        """How many events of a parent are taken at once; fewer where its patterns take long, for others wait."""
        self._resting: dict[tuple[int, Place], int] = {}
        """Until when a place that cannot be read is left alone."""

    def advance(self, ids: Sequence[int], *, now_ms: int) -> int:
        """One chunk for each place that these subscriptions are at; returns how many places were moved."""
        moved = 0
        for parent, place, subscriptions in _by_place(self._behind_with_room(ids)):
            if self._resting.get((parent.pk, place), 0) > now_ms:
                continue
            try:
                moved += self._walk(parent, place, subscriptions, now_ms=now_ms)
            except Forgotten as exc:
                _disable(subscriptions, str(exc))
            except _Overtaken as exc:
                log.info("%s; looking again", exc)
            except DatabaseError:
                raise
            except Exception:
                # The store is away, or nobody can read this: whoever is elsewhere does not wait for it.
                log.exception("%d subscriptions of parent %s wait at %s", len(subscriptions), parent, tuple(place))
                self._resting[parent.pk, place] = now_ms + REST_MS
        return moved

    def _walk(self, parent: Parent, place: Place, subscriptions: Sequence[Subscription], *, now_ms: int) -> int:
        """Raises Forgotten, _Overtaken, and whatever keeps the lake from being read."""
        chunk = self._reader.read(parent, place, events_max=self._events_max(parent.pk))
        if chunk.place == place:
            return 0
        self._tell(parent.pk, subscriptions, place, chunk, now_ms=now_ms)
        self._resting.pop((parent.pk, place), None)
        return 1

    def _behind_with_room(self, ids: Sequence[int]) -> list[Subscription]:
        found: list[Subscription] = []
        for start in range(0, len(ids), IDS_PER_QUERY):
            active = Subscription.objects.filter(
                pk__in=ids[start : start + IDS_PER_QUERY], state=SubscriptionState.ACTIVE
            )
            behind = list(active.filter(commit_number__lt=F("parent__commit_number")).select_related("parent"))
            pending = Delivery.objects.filter(subscription__in=behind, state=DeliveryState.PENDING)
            waiting = dict(pending.order_by().values_list("subscription").annotate(Sum("event_count")))
            most = self._settings.subscription_pending_max
            found += [one for one in behind if waiting.get(one.pk, 0) < most]
        return found

    def _tell(
        self, parent_id: int, subscriptions: Sequence[Subscription], place: Place, chunk: Chunk, *, now_ms: int
    ) -> None:
        """Raises _Overtaken."""
        chosen = self._choose(parent_id, subscriptions, chunk.events)
        by_id = {one.pk: one for one in subscriptions}
        with transaction.atomic():
            self._move(list(by_id), place, chunk.place)
            made: list[messages.Draft] = []
            for pk, told in chosen.items():
                one = by_id[pk]
                if one.batch_events > 1:
                    told = messages.joined(one, told, now_ms=now_ms)
                made += messages.drafts_of(one, told, now_ms=now_ms)
            messages.write(made)

    def _choose(
        self, parent_id: int, subscriptions: Sequence[Subscription], events: Iterable[Told]
    ) -> dict[int, list[Told]]:
        index = self._index({one.pk: (one.pattern, one.table) for one in subscriptions})
        from_ms = {one.pk: one.from_ms for one in subscriptions}
        chosen: dict[int, list[Told]] = {}
        started_s = self._timer()
        for told in events:
            for pk in index.match(told):
                if told.received_ms >= from_ms[pk]:
                    chosen.setdefault(pk, []).append(told)
        took_long = self._timer() - started_s > MATCHING_S
        self._most[parent_id] = (
            max(1, self._events_max(parent_id) // 2) if took_long else self._events_max(parent_id) * 2
        )
        return chosen

    def _index(self, patterns: dict[int, tuple[str, str]]) -> _Index:
        """Made once for those who stay together: of ten thousand patterns it takes half a second."""
        first = min(patterns)
        found = self._indexes.pop(first, None)
        if found is None or found.patterns != patterns:
            self._patterns_kept += len(patterns) - (0 if found is None else len(found.patterns))
            found = _Index(patterns)
        self._indexes[first] = found
        while self._patterns_kept > PATTERNS_KEPT_MAX and len(self._indexes) > 1:
            _, gone = self._indexes.popitem(last=False)
            self._patterns_kept -= len(gone.patterns)
        return found

    def _events_max(self, parent_id: int) -> int:
        return min(self._most.get(parent_id, CHUNK_EVENTS), CHUNK_EVENTS, self._settings.subscription_pending_max)

    def _move(self, ids: Sequence[int], before: Place, after: Place) -> None:
        moved = 0
        for start in range(0, len(ids), IDS_PER_QUERY):
            at = Subscription.objects.filter(
                **before._asdict(),
                pk__in=ids[start : start + IDS_PER_QUERY],
                state=SubscriptionState.ACTIVE,
                lease_owner=self._owner,
            )
            moved += at.update(**after._asdict())
        if moved != len(ids):
            raise _Overtaken(f"{len(ids) - moved} of {len(ids)} subscriptions are not at {tuple(before)} any more")


def _by_place(subscriptions: Iterable[Subscription]) -> Iterator[tuple[Parent, Place, list[Subscription]]]:
    found: dict[tuple[int, Place], list[Subscription]] = {}
    for one in subscriptions:
        found.setdefault((one.parent_id, place_of(one)), []).append(one)
    for (_, place), some in sorted(found.items(), key=lambda item: item[0]):
        yield some[0].parent, place, some


def place_of(one: Subscription) -> Place:
    return Place(one.commit_number, one.batch_id, one.batch_entries)


def _disable(subscriptions: Sequence[Subscription], why: str) -> None:
    """Never over a gap in silence: an operator resumes it from now, or from a moment that is remembered."""
    ids = [one.pk for one in subscriptions]
    Subscription.objects.filter(pk__in=ids, state=SubscriptionState.ACTIVE).update(
        state=SubscriptionState.DISABLED, state_reason=why
    )
    log.error("%d subscriptions of parent %s stop: %s", len(ids), subscriptions[0].parent, why)
