"""Flushes are asked for here: at once when a parent's buffer reaches a threshold, by a timer when time does.

One alarm per parent and process, armed only while something waits, so that an idle parent costs nothing. It only asks;
whoever gets the task looks at the journal, and the beat finds what an alarm of a dead process would have said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import Error as DatabaseError
from django.db.models import Min

from lakehouse.flush.policy import FlushTrigger, Waiting, due, due_at_ms
from lakehouse.journal.store import Buffer
from lakehouse.models import Batch, BatchState, Parent

log = logging.getLogger(__name__)

Ask = Callable[[int, FlushTrigger], None]
"""Ask a worker to flush a parent; may block, so it runs in a thread."""

Run = Callable[[Callable[[], Any]], Awaitable[Any]]

KNOWN_MS = 1000
ASK_AGAIN_MS = 1000
"""A buffer above its threshold asks once per so many ms, not once per group."""


@dataclass(slots=True)
class Alarm:
    """A parent in whose buffer something waits, as far as this process knows."""

    waiting: Waiting
    buffer: Buffer
    timer: asyncio.TimerHandle | None = None
    asked_ms: int = 0
    noted_ms: int = 0


class Alarms:
    """For one process. `run` does database work and returns what it returns; without it a timer asks unseen."""

    def __init__(self, ask: Ask, *, now_ms: Callable[[], int]) -> None:
        self.run: Run | None = None
        self.on_alarm: Callable[[int, FlushTrigger], None] = lambda _, __: None
        """Hears that time was up, and that a flush is due."""
        self._ask = ask
        self._now_ms = now_ms
        self._alarms: dict[int, Alarm] = {}
        self._asking: set[asyncio.Future[bool]] = set()
        self._looking: set[asyncio.Task[None]] = set()

    @property
    def armed(self) -> int:
        """Parents with a running timer."""
        return sum(alarm.timer is not None for alarm in self._alarms.values())

    def note(self, buffers: dict[int, Buffer]) -> None:
        """Something was journalled; these are the buffers now."""
        now_ms = self._now_ms()
        for parent_id, buffer in buffers.items():
            before = self._alarms.get(parent_id)
            # A buffer that shrank was flushed; what waits now came after that.
            shrank = before is not None and buffer.entries < before.waiting.entries
            oldest_ms = now_ms if before is None or shrank else before.waiting.oldest_ms
            waiting = Waiting(buffer.entries, buffer.size_bytes, oldest_ms, last_flush_ms=oldest_ms)
            alarm = before or Alarm(waiting, buffer)
            alarm.waiting, alarm.buffer, alarm.noted_ms = waiting, buffer, now_ms
            self._alarms[parent_id] = alarm
            self._look(parent_id, alarm, now_ms)

    def utilization(self, parent_id: int) -> float:
        """How full this parent's buffer was within the last second, else 0: what is older may be flushed by now."""
        alarm = self._alarms.get(parent_id)
        is_new = alarm is not None and self._now_ms() - alarm.noted_ms < KNOWN_MS
        return alarm.buffer.utilization if alarm is not None and is_new else 0.0

    def blown(self, parent_id: int) -> str:
        """The parent's name when its fuse was blown as something was journalled last, else nothing."""
        alarm = self._alarms.get(parent_id)
        return "" if alarm is None else alarm.buffer.blown

    def time_until_flush_ms(self, parent_id: int) -> int:
        """When time alone makes a flush of what waits due; 0 when nothing waits as far as this process knows."""
        alarm = self._alarms.get(parent_id)
        if alarm is None:
            return 0
        return max(0, due_at_ms(alarm.waiting, alarm.buffer.config) - self._now_ms())

    def ask(self, parent_id: int, trigger: FlushTrigger) -> asyncio.Future[bool]:
        """Ask now, whatever this process knows of the buffer. Whether a worker hears of it, once that is known."""
        asked = asyncio.get_running_loop().run_in_executor(None, self._ask_or_log, parent_id, trigger)
        self._asking.add(asked)
        asked.add_done_callback(self._asking.discard)
        return asked

    def ring(self, parent_id: int, trigger: FlushTrigger) -> None:
        """Ask now, if anything waits as far as this process knows."""
        alarm = self.drop(parent_id)
        if alarm is not None and alarm.waiting.entries:
            self.ask(parent_id, trigger)

    def drop(self, parent_id: int) -> Alarm | None:
        """Know nothing of this parent's buffer any more."""
        alarm = self._alarms.pop(parent_id, None)
        if alarm is not None and alarm.timer is not None:
            alarm.timer.cancel()
        return alarm

    async def settled(self) -> None:
        """Everything asked so far has reached the broker, or the log."""
        if self._asking:
            await asyncio.gather(*self._asking, return_exceptions=True)

    async def stop(self) -> None:
        """Forget every timer; what waits is asked for now."""
        for looking in self._looking:
            looking.cancel()
        for parent_id in list(self._alarms):
            self.ring(parent_id, FlushTrigger.SHUTDOWN)
        await self.settled()

    def _look(self, parent_id: int, alarm: Alarm, now_ms: int) -> None:
        trigger = due(alarm.waiting, alarm.buffer.config, now_ms=now_ms)
        if trigger is not None and now_ms - alarm.asked_ms >= ASK_AGAIN_MS:
            alarm.asked_ms = now_ms
            self.ask(parent_id, trigger)
        if not alarm.waiting.entries:
            self.drop(parent_id)
        elif alarm.timer is None:
            wait_ms = due_at_ms(alarm.waiting, alarm.buffer.config) - now_ms
            loop = asyncio.get_running_loop()
            alarm.timer = loop.call_later(max(wait_ms, ASK_AGAIN_MS) / 1000, self._fire, parent_id)

    def _fire(self, parent_id: int) -> None:
        """Time is up; whatever came meanwhile is flushed along, and the next batch arms a new alarm."""
        alarm = self._alarms[parent_id]
        alarm.timer = None
        if self.run is None:
            self._act(parent_id, alarm)
        else:
            looking = asyncio.create_task(self._look_and_act(parent_id, alarm, self.run))
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)

    def _act(self, parent_id: int, alarm: Alarm) -> None:
        now_ms = self._now_ms()
        trigger = due(alarm.waiting, alarm.buffer.config, now_ms=now_ms)
        if trigger is None:
            self._look(parent_id, alarm, now_ms)
        else:
            self.on_alarm(parent_id, trigger)
            self.ring(parent_id, trigger)

    async def _look_and_act(self, parent_id: int, alarm: Alarm, run: Run) -> None:
        """Whether anything waits is for the journal to say: who asked for a flush does not hear when it is done."""
        noted_ms = alarm.noted_ms
        try:
            waiting: Waiting | None = await run(partial(waiting_of, parent_id))
        except DatabaseError as exc:
            log.warning("cannot look what waits of parent %d: %s", parent_id, exc)
            waiting = alarm.waiting
        if self._alarms.get(parent_id) is not alarm or alarm.timer is not None:
            return
        if noted_ms == alarm.noted_ms and waiting is None:
            self.drop(parent_id)
            return
        if noted_ms == alarm.noted_ms and waiting is not None:
            alarm.waiting = waiting
        self._act(parent_id, alarm)

    def _ask_or_log(self, parent_id: int, trigger: FlushTrigger) -> bool:
        try:
            self._ask(parent_id, trigger)
        except Exception as exc:
            log.error("cannot ask a worker to flush parent %d, the beat will: %s", parent_id, exc)
            return False
        return True


def waiting_of(parent_id: int) -> Waiting | None:
    """What waits, as the journal tells it; one row is read when nothing does."""
    parent = Parent.objects.filter(pk=parent_id, pending_batches__gt=0).first()
    if parent is None:
        return None
    waiting = Batch.objects.filter(parent=parent_id, state__in=[BatchState.PENDING, BatchState.FLUSHING])
    oldest_ms: int | None = waiting.aggregate(oldest=Min("received_ms"))["oldest"]
    if oldest_ms is None:
        return None
    return Waiting(parent.pending_entries, parent.pending_bytes, oldest_ms, parent.last_flush_ms)
