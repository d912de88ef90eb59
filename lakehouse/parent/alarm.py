"""Flushes are asked for here: at once when a parent's buffer reaches a threshold, by a timer when time does.

One alarm per parent and process, armed only while something waits, so that an idle parent costs nothing. It only asks;
whoever gets the task looks at the journal, and the beat finds what an alarm of a dead process would have said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from lakehouse.flush.policy import FlushTrigger, Waiting, due, due_at_ms
from lakehouse.journal.store import Buffer

log = logging.getLogger(__name__)

Ask = Callable[[int, FlushTrigger], None]
"""Ask a worker to flush a parent; may block, so it runs in a thread."""

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
    def __init__(self, ask: Ask, *, now_ms: Callable[[], int]) -> None:
        self._ask = ask
        self._now_ms = now_ms
        self._alarms: dict[int, Alarm] = {}
        self._asking: set[asyncio.Future[None]] = set()

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

    def time_until_flush_ms(self, parent_id: int) -> int:
        """When time alone makes a flush of what waits due; 0 when nothing waits as far as this process knows."""
        alarm = self._alarms.get(parent_id)
        if alarm is None:
            return 0
        return max(0, due_at_ms(alarm.waiting, alarm.buffer.config) - self._now_ms())

    def ask(self, parent_id: int, trigger: FlushTrigger) -> None:
        """Ask now, whatever this process knows of the buffer."""
        asked = asyncio.get_running_loop().run_in_executor(None, self._ask_or_log, parent_id, trigger)
        self._asking.add(asked)
        asked.add_done_callback(self._asking.discard)

    def ring(self, parent_id: int, trigger: FlushTrigger) -> None:
        """Ask now, if anything waits as far as this process knows."""
        alarm = self._alarms.pop(parent_id, None)
        if alarm is not None and alarm.timer is not None:
            alarm.timer.cancel()
        if alarm is not None and alarm.waiting.entries:
            self.ask(parent_id, trigger)

    async def settled(self) -> None:
        """Everything asked so far has reached the broker, or the log."""
        if self._asking:
            await asyncio.gather(*self._asking, return_exceptions=True)

    async def stop(self) -> None:
        """Forget every timer; what waits is asked for now."""
        for parent_id in list(self._alarms):
            self.ring(parent_id, FlushTrigger.SHUTDOWN)
        await self.settled()

    def _look(self, parent_id: int, alarm: Alarm, now_ms: int) -> None:
        trigger = due(alarm.waiting, alarm.buffer.config, now_ms=now_ms)
        if trigger is not None and now_ms - alarm.asked_ms >= ASK_AGAIN_MS:
            alarm.asked_ms = now_ms
            self.ask(parent_id, trigger)
        elif alarm.timer is None and alarm.waiting.entries:
            wait_ms = due_at_ms(alarm.waiting, alarm.buffer.config) - now_ms
            loop = asyncio.get_running_loop()
            alarm.timer = loop.call_later(max(wait_ms, ASK_AGAIN_MS) / 1000, self._fire, parent_id)

    def _fire(self, parent_id: int) -> None:
        """Time is up; whatever came meanwhile is flushed along, and the next batch arms a new alarm."""
        alarm = self._alarms[parent_id]
        alarm.timer = None
        now_ms = self._now_ms()
        trigger = due(alarm.waiting, alarm.buffer.config, now_ms=now_ms)
        if trigger is None:
            self._look(parent_id, alarm, now_ms)
        else:
            self.ring(parent_id, trigger)

    def _ask_or_log(self, parent_id: int, trigger: FlushTrigger) -> None:
        try:
            self._ask(parent_id, trigger)
        except Exception as exc:
            log.error("cannot ask a worker to flush parent %d, the beat will: %s", parent_id, exc)
