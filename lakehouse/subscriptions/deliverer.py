"""The process that delivers: takes subscriptions, moves their places, sends what is due, writes down what became of it.

    leases ─ fan out ─ take what is due ─ send, all at once ─ settle

Messages are sent side by side, each subscription a few at a time, so a slow target holds up only its own. Whatever is
in memory is in rows, too: killed at any point, another one goes on when the leases have run out, or this one at its
next start, and what had been sent and not been written down is sent again under the same id.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError
from django.db import connections

from lakehouse.conf import Settings
from lakehouse.subscriptions import leases, settle, targets
from lakehouse.subscriptions.connections import Kept
from lakehouse.subscriptions.fan_out import FanOut
from lakehouse.subscriptions.models import Subscription, SubscriptionState
from lakehouse.subscriptions.names import Names
from lakehouse.subscriptions.retries import Outcome
from lakehouse.subscriptions.sending import Line, Sending, Taken
from lakehouse.subscriptions.settle import Chosen
from lakehouse.subscriptions.stream import Reader, ReadLake
from lakehouse.subscriptions.targets import Message

log = logging.getLogger(__name__)

POLL_S = 0.25
GATHER_S = 0.1
"""What ends within this is written down together, unless somebody has nothing left to send before."""
SETTLED_MAX = 1000
"""Messages in one transaction."""
AHEAD_EVENTS = 256
"""Of a subscription, taken before they can be sent."""
AHEAD_BYTES = 16 * 1024 * 1024
"""Of all subscriptions together."""
TENANT_BYTES = 64 * 1024 * 1024
"""Of a tenant, being sent or taken for it, and one message: targets that never answer hold them for long."""
ERROR_PAUSE_S = 2.0


@dataclass(slots=True)
class Deliverer:
    owner: str
    settings: Settings
    read_lake: ReadLake
    now_ms: Callable[[], int]
    chance: Callable[[], float] = random.random
    _kept: Kept = field(default_factory=Kept)
    _names: Names = field(default_factory=Names)
    _fan_out: FanOut = field(init=False)
    _sending: Sending = field(init=False)
    _asked_s: float = 0.0
    """When all lines were asked for last, those included of which everything that is due is here."""

    def __post_init__(self) -> None:
        self._fan_out = FanOut(self.owner, self.settings, Reader(self.read_lake))
        self._sending = Sending(self._send, lanes_max=self.settings.subscription_concurrency, now_ms=self.now_ms)

    async def run(self, stopping: asyncio.Event) -> None:
        """Until it is asked to stop; what is on its way then is waited for."""
        while not stopping.is_set():
            try:
                moved = await self.round()
            except DatabaseError as exc:
                log.warning("the database said %s: %s; trying again", type(exc).__name__, exc)
                # Kept between the rounds: a new one for each was half of what an idle deliverer took.
                await sync_to_async(connections.close_all)()
                await _either(stopping.wait(), within_s=ERROR_PAUSE_S)
                continue
            if not moved:
                await _either(stopping.wait(), self._sending.is_dry.wait(), within_s=POLL_S)
        await self.stop()

    async def round(self) -> int:
        """Everything that can be done now; returns how much was. What is sent is not waited for."""
        self._sending.is_dry.clear()
        done, moved, taken = await sync_to_async(self._work)()
        self._sending.go_on(taken)
        if self._sending.lanes and not moved:
            await _either(self._sending.is_dry.wait(), within_s=GATHER_S)
        return done + moved + sum(len(one.messages) for one in taken.values())

    async def stop(self) -> None:
        """Wait for what is on its way, write it down, and let others have the subscriptions."""
        self._sending.drop_all()
        try:
            await self._drain()
            await sync_to_async(leases.leave)(self.owner)
        except DatabaseError as exc:
            words = " ".join(str(exc).split())
            log.warning("stopped without the database, so others wait for the leases to end: %s", words)
        finally:
            for lane in self._sending.lanes:
                lane.cancel()
            self._kept.close()

    async def _drain(self) -> None:
        """What is not done in time is pending as it was, and the next process sends it under the same id."""
        sending, until_ms = self._sending, self.now_ms() + self.settings.drain_ms
        while sending.lanes or sending.done:
            if sending.lanes and self.now_ms() >= until_ms:
                return
            if sending.lanes:
                await asyncio.wait(list(sending.lanes), timeout=self.settings.drain_ms / 1000)
            await sync_to_async(self._settle)()

    async def until_idle(self) -> None:
        """For whoever waits for the end: until nothing is due and nothing is on its way."""
        sending = self._sending
        while await self.round() or sending.lanes or sending.done:
            await asyncio.sleep(0)
        self._kept.close()

    def _work(self) -> tuple[int, int, dict[int, Taken]]:
        done = self._settle()
        now_ms, lease_ms = self.now_ms(), self.settings.subscription_lease_ms
        ids = leases.take(self.owner, now_ms=now_ms, lease_ms=lease_ms)
        self._sending.until_ms = now_ms + lease_ms // 2
        moved = self._fan_out.advance(ids, now_ms=self.now_ms())
        return done, moved, self._due(ids, is_anew=moved > 0)

    def _settle(self) -> int:
        """What fails here is written down the next time; until then nobody sends it again."""
        sending = self._sending
        if done := sending.done[:SETTLED_MAX]:
            settle.record(done, now_ms=self.now_ms(), chance=self.chance)
            del sending.done[: len(done)]
            sending.forget(done)
        return len(done)

    def _due(self, ids: Sequence[int], *, is_anew: bool) -> dict[int, Taken]:
        """For each of these that is active, of those that were moved also what is new."""
        now_s = time.monotonic()
        if is_anew := is_anew or now_s - self._asked_s >= POLL_S:
            self._asked_s = now_s
        ahead_bytes, held_bytes = AHEAD_BYTES - self._sending.waiting_bytes, Counter(self._sending.held_bytes)
        chosen: list[tuple[Subscription, Chosen]] = []
        active = Subscription.objects.filter(pk__in=ids, state=SubscriptionState.ACTIVE)
        for one in active.select_related("parent"):
            room_bytes = TENANT_BYTES - held_bytes[one.parent_id]
            some = self._choose(one, is_anew=is_anew, room_bytes=room_bytes, ahead_bytes=ahead_bytes)
            ahead_bytes -= some.size_bytes
            held_bytes[one.parent_id] += some.size_bytes
            chosen.append((one, some))
        messages = settle.take(chosen)
        return {to.pk: Taken(to, messages[to.pk], some.is_all and not _is_behind(to)) for to, some in chosen}

    def _choose(self, one: Subscription, *, is_anew: bool, room_bytes: int, ahead_bytes: int) -> Chosen:
        """Nothing while there is enough of it, or while all that is due is here."""
        line = self._sending.lines.get(one.pk) or Line()
        lanes_max = self.settings.subscription_concurrency
        if len(line.waiting) >= lanes_max or (line.known and line.is_all and not is_anew):
            return Chosen([], [], 0, line.is_all)
        room = max(0, lanes_max - line.lanes - len(line.waiting))
        ahead = AHEAD_EVENTS // one.batch_events if ahead_bytes > 0 else 0
        bounds = {"room": room, "room_bytes": room_bytes, "ahead": ahead, "ahead_bytes": ahead_bytes}
        return settle.choose(one.pk, but=set(line.known), now_ms=self.now_ms(), **bounds)

    async def _send(self, message: Message) -> Outcome:
        return await targets.deliver(message, self.settings, self._kept, self._names, now_ms=self.now_ms)


def _is_behind(one: Subscription) -> bool:
    return one.commit_number < one.parent.commit_number


async def _either(*waits: object, within_s: float) -> None:
    """Until one of these is there, or for so long."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
