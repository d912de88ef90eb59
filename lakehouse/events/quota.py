"""What one key may bring within a minute: counted in Redis for all processes, and here, for when Redis is away."""

from __future__ import annotations

from lakehouse.events.window import SECONDS, Left, SlidingWindow
from lakehouse.limits.shared_rates import Minute, SharedRates


class Quota:
    def __init__(self, whose: str, *, requests_max: int, events_max: int, rates: SharedRates | None) -> None:
        self._whose, self._requests_max, self._events_max = whose, requests_max, events_max
        self._here = SlidingWindow(requests_max=requests_max, events_max=events_max)
        self._rates = rates
        self._minute: Minute | None = None
        """What Redis said last; None when nobody could be asked."""

    async def take_request(self, now_ms: int) -> bool:
        """Whether one more request may be served; one that is not costs nothing."""
        self._minute = await self._ask(requests=1)
        if self._minute is None:
            return self._here.take_request(now_ms)
        if self._minute.is_taken:
            self._here.take_request(now_ms)
        return self._minute.is_taken

    async def take_events(self, events: int, now_ms: int) -> bool:
        """Whether so many may be stored; more than a minute may have at all never fit."""
        self._minute = await self._ask(events=events)
        if self._minute is None:
            return self._here.take_events(events, now_ms)
        if self._minute.is_taken:
            self._here.take_events(events, now_ms)
        return self._minute.is_taken

    def wait_s(self, now_ms: int) -> int:
        """Whole seconds until something of the window is over."""
        if self._minute is None:
            return self._here.wait_s(now_ms)
        return max(1, SECONDS + 1 - self._minute.first_age_s)

    def left(self, now_ms: int) -> Left:
        if self._minute is None:
            return self._here.left(now_ms)
        return Left(
            self._requests_max,
            self._events_max,
            max(0, self._requests_max - self._minute.requests),
            max(0, self._events_max - self._minute.events),
            now_ms // 1000 + SECONDS + 1 - self._minute.last_age_s,
        )

    async def _ask(self, *, requests: int = 0, events: int = 0) -> Minute | None:
        if self._rates is None:
            return None
        return await self._rates.take_of_minute(
            self._whose,
            requests=requests,
            events=events,
            requests_max=self._requests_max,
            events_max=self._events_max,
        )
