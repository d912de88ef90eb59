"""Who comes over HTTP. A visit is to requests what a connection is to frames: one address with one key at one parent.

Its first request is a handshake: the doorman counts it, the key is looked up, and the parent begins to exist. Then it
is remembered, and looked up again every 10 s as an open connection is, so that a request costs no query before the
journal. What is remembered is bounded; who was forgotten shakes hands again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from django.db import Error as DatabaseError

from lakehouse.http import answers
from lakehouse.http.cdc_request import EPOCH
from lakehouse.journal.accept import Source
from lakehouse.journal.intake import Intake
from lakehouse.limits import refusal
from lakehouse.limits.allowance import Allowance, payload_bytes_max
from lakehouse.limits.gate import Lane
from lakehouse.limits.gate import Refusal as TooMany
from lakehouse.limits.refusal import Response
from lakehouse.models import Child
from lakehouse.parent import access, arrivals
from lakehouse.parent.arrivals import Admitted, Knock, NoRoom
from lakehouse.parent.grants import STRANGERS, Refused
from lakehouse.parent.house import House
from rpc.dolake import refusals
from rpc.dolake.limits import WireLimits
from rpc.dolake.refusals import Reason

log = logging.getLogger(__name__)

CHECKED_MS = 10_000
"""A key that was revoked or expired opens nothing any more after this."""
VISITS_MAX = 5000
CHILDREN_MAX = 20_000
SOON_MS = 1000

T = TypeVar("T")
Key = tuple[str, str, str]
"""Address, digest of the access key, parent."""


@dataclass(slots=True)
class Visit:
    key: Key
    admitted: Admitted
    allowance: Allowance
    limits: WireLimits
    checked_ms: int


@dataclass(frozen=True, slots=True)
class Known:
    """A child that a visit may write as."""

    source: Source
    shard: str | None
    checked_ms: int


@dataclass(slots=True)
class Visits:
    """Those of one process."""

    visits: OrderedDict[Key, Visit] = field(default_factory=OrderedDict)
    children: OrderedDict[tuple[Key, str], Known] = field(default_factory=OrderedDict)
    knocking: dict[Key, asyncio.Task[Visit | Response]] = field(default_factory=dict)

    async def enter(self, house: House, scope: dict[str, Any], knock: Knock) -> Visit | Response:
        """The visit this request belongs to, or the answer that sends it away."""
        key = _address(house, scope), access.digest_of(knock.token), knock.parent
        visit = self.visits.get(key)
        if visit is not None and abs(house.now_ms() - visit.checked_ms) < CHECKED_MS:
            self.visits.move_to_end(key)
            return visit
        task = self.knocking.get(key)
        if task is None:
            task = self.knocking[key] = asyncio.create_task(self._knock(house, scope, knock, key))
            task.add_done_callback(lambda _: self.knocking.pop(key, None))
        return await asyncio.shield(task)

    async def child(self, house: House, visit: Visit, name: str, shard: str | None) -> Source | Response:
        """The child of this name, for a visit whose key may write as it."""
        place, now_ms = (visit.key, name), house.now_ms()
        known = self.children.get(place)
        if known is not None and abs(now_ms - known.checked_ms) < CHECKED_MS and shard in (None, known.shard):
            self.children.move_to_end(place)
            return known.source
        try:
            child_id: int | NoRoom | None = await house.intake.run(lambda: _child(visit.admitted, name, shard, now_ms))
        except DatabaseError as exc:
            return _away(exc)
        if isinstance(child_id, NoRoom):
            return answers.answer(403, {"error": child_id.text})
        if child_id is None:
            log.warning("child %r is not one its access key may write as", name)
            return answers.no_key(403)
        known = Known(Source(visit.admitted.parent_id, child_id, EPOCH, own_epoch=False), shard, now_ms)
        _keep(self.children, place, known, CHILDREN_MAX)
        return known.source

    async def _knock(self, house: House, scope: dict[str, Any], knock: Knock, key: Key) -> Visit | Response:
        now_ms, settings = house.now_ms(), house.settings
        known = self.visits.pop(key, None)
        verdict = await at_the_door(
            house,
            scope,
            lambda: arrivals.judge(knock, is_open=settings.open, now_ms=now_ms, parents_max=settings.parents_max),
            is_counted=known is None,
            lane=Lane.CONNECTIONS,
        )
        if isinstance(verdict, Response):
            return verdict
        visit = _visit(house, key, verdict, now_ms)
        if known is not None and known.admitted.limits == verdict.limits:
            visit.allowance = known.allowance
        _keep(self.visits, key, visit, VISITS_MAX)
        return visit


def visits_of(house: House) -> Visits:
    found = _visits.get(house.intake)
    if found is None:
        found = _visits[house.intake] = Visits()
    return found


async def at_the_door(
    house: House,
    scope: dict[str, Any],
    judge: Callable[[], T | Refused],
    *,
    is_counted: bool = True,
    lane: Lane = Lane.REQUESTS,
) -> T | Response:
    """What `judge` grants, or the answer that sends the caller away. A stranger without a key has to wait at last."""
    if not is_counted:
        return await _judged(house, judge, lambda: None)
    guest = await house.doorman.enter(scope, evict=lambda: None, lane=lane)
    if isinstance(guest, TooMany):
        return refusal.response(guest)
    try:
        return await _judged(house, judge, lambda: house.doorman.key_failed(guest))
    finally:
        house.doorman.leave(guest)


async def _judged(house: House, judge: Callable[[], T | Refused], key_failed: Callable[[], None]) -> T | Response:
    asked: Awaitable[T | Refused] = house.intake.run(judge)
    try:
        verdict = await asked
    except DatabaseError as exc:
        return _away(exc)
    if not isinstance(verdict, Refused):
        return verdict
    if verdict.reason in STRANGERS:
        key_failed()
    return answers.no_key(verdict.http_status, verdict.scopes)


def _visit(house: House, key: Key, admitted: Admitted, now_ms: int) -> Visit:
    settings, own = house.settings, admitted.limits
    allowance = Allowance(
        settings, messages_per_second=own.messages_per_second, burst_capacity=own.burst_capacity, now_ms=now_ms
    )
    limits = WireLimits(
        max_payload_size=payload_bytes_max(settings, own.max_payload_bytes),
        max_events_per_message=settings.max_events_per_message,
        max_event_size=settings.max_event_size,
    )
    return Visit(key, admitted, allowance, limits, now_ms)


def _child(admitted: Admitted, name: str, shard: str | None, now_ms: int) -> int | NoRoom | None:
    """The id of this child; None when its key may not write as it. It is not connected by it."""
    if not arrivals.may_write(admitted, name, now_ms=now_ms):
        return None
    child = arrivals.child_of(admitted, name, shard=shard or "", last_seen_ms=now_ms)
    if isinstance(child, NoRoom):
        return child
    if shard and child.shard != shard:
        Child.objects.filter(pk=child.pk).update(shard=shard)
    return child.pk


def _address(house: House, scope: dict[str, Any]) -> str:
    address = house.doorman.address_of(scope)
    return "" if address is None else address.ip


def _keep(into: OrderedDict[Any, Any], key: object, value: object, rows_max: int) -> None:
    into[key] = value
    into.move_to_end(key)
    while len(into) > rows_max:
        into.popitem(last=False)


def _away(exc: DatabaseError) -> Response:
    log.error("cannot look up a key or a child, the caller is asked to come back: %s", exc)
    return answers.refused(refusals.Refusal(Reason.INTERNAL_ERROR, "the journal is not available", SOON_MS))


_visits: WeakKeyDictionary[Intake, Visits] = WeakKeyDictionary()
