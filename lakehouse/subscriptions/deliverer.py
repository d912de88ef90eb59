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
from collections.abc import Callable
from dataclasses import dataclass, field

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError
from django.db import close_old_connections

from lakehouse.conf import Settings
from lakehouse.subscriptions import leases, settle, targets, webhook
from lakehouse.subscriptions.connections import Kept
from lakehouse.subscriptions.fan_out import FanOut
from lakehouse.subscriptions.models import Subscription, SubscriptionState
from lakehouse.subscriptions.retries import Outcome
from lakehouse.subscriptions.settle import Tried
from lakehouse.subscriptions.stream import Reader, ReadLake
from lakehouse.subscriptions.targets import Message

log = logging.getLogger(__name__)

POLL_S = 0.25
GATHER_S = 0.01
"""What ends within this is written down together."""
ERROR_PAUSE_S = 2.0


@dataclass(slots=True)
class Deliverer:
    owner: str
    settings: Settings
    read_lake: ReadLake
    now_ms: Callable[[], int]
    chance: Callable[[], float] = random.random
    _sending: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _of: dict[int, set[int]] = field(default_factory=dict)
    """Messages on their way, by subscription."""
    _done: list[Tried] = field(default_factory=list)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _kept: Kept = field(default_factory=Kept)
    _fan_out: FanOut = field(init=False)

    def __post_init__(self) -> None:
        self._fan_out = FanOut(self.owner, self.settings, Reader(self.read_lake))

    async def run(self, stopping: asyncio.Event) -> None:
        """Until it is asked to stop; what is on its way then is waited for."""
        while not stopping.is_set():
            try:
                moved = await self.round()
            except DatabaseError as exc:
                log.warning("the database said %s: %s; trying again", type(exc).__name__, exc)
                await _either(stopping.wait(), within_s=ERROR_PAUSE_S)
                continue
            if not moved:
                await _either(stopping.wait(), self._ended.wait(), within_s=POLL_S)
        await self.stop()

    async def round(self) -> int:
        """Everything that can be done now; returns how much was. What is sent is not waited for."""
        self._ended.clear()
        moved, found, done = await sync_to_async(self._work)()
        for message in found:
            self._of.setdefault(message.to.pk, set()).add(message.delivery_id)
            self._sending[message.delivery_id] = asyncio.create_task(self._send(message))
        if self._sending and not moved:
            await _either(self._ended.wait(), within_s=GATHER_S)
        return moved + done + len(found)

    async def stop(self) -> None:
        """Wait for what is on its way, write it down, and let others have the subscriptions."""
        until_ms = self.now_ms() + self.settings.drain_ms
        while self._sending or self._done:
            if self._sending and self.now_ms() >= until_ms:
                break  # pending as they are, the next process sends them under the same id
            if self._sending:
                await asyncio.wait(list(self._sending.values()), timeout=self.settings.drain_ms / 1000)
            await sync_to_async(self._settle)()
        for task in self._sending.values():
            task.cancel()
        self._kept.close()
        await sync_to_async(leases.leave)(self.owner)

    async def until_idle(self) -> None:
        """For whoever waits for the end: until nothing is due and nothing is on its way."""
        while await self.round() or self._sending or self._done:
            await _either(self._ended.wait(), within_s=POLL_S if self._sending else GATHER_S)
        self._kept.close()

    def _work(self) -> tuple[int, list[Message], int]:
        close_old_connections()
        done = self._settle()
        ids = leases.take(self.owner, now_ms=self.now_ms(), lease_ms=self.settings.subscription_lease_ms)
        moved = self._fan_out.advance(ids, now_ms=self.now_ms())
        return moved, self._due(ids), done

    def _settle(self) -> int:
        """What fails here is written down the next time; until then nobody sends it again."""
        done = self._done[:]
        if done:
            settle.record(done, now_ms=self.now_ms(), chance=self.chance)
        del self._done[: len(done)]
        for one in done:
            self._of[one.message.to.pk].discard(one.message.delivery_id)
        return len(done)

    def _due(self, ids: list[int]) -> list[Message]:
        found: list[Message] = []
        for one in Subscription.objects.filter(pk__in=ids, state=SubscriptionState.ACTIVE).select_related("parent"):
            on_their_way = self._of.get(one.pk, set())
            room = self.settings.subscription_concurrency - len(on_their_way)
            if room > 0:
                found += settle.take(one, room=room, but=on_their_way, now_ms=self.now_ms())
        return found

    async def _send(self, message: Message) -> None:
        started_ms = self.now_ms()
        try:
            outcome = await targets.deliver(message, self.settings, self._kept, now_ms=self.now_ms)
        except Exception as exc:  # else nobody would ever write it down, and it would be on its way for good
            log.exception("%s of %s", message.message_id, message.to)
            outcome = Outcome(False, error=f"{type(exc).__name__}: {exc}"[: webhook.ERROR_CHARS_MAX])
        self._done.append(Tried(message, started_ms, self.now_ms() - started_ms, outcome))
        self._sending.pop(message.delivery_id, None)
        self._ended.set()


async def _either(*waits: object, within_s: float) -> None:
    """Until one of these is there, or for so long."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
