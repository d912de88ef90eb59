"""How much came within the last minute, sliding: requests and events of one key. Pure; time is an argument.

Counted by the second, so what is remembered is 60 pairs of numbers, and what came counts for 60 to 61 s.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

SECONDS = 60


@dataclass(frozen=True, slots=True)
class Left:
    """The numbers of the X-RateLimit headers. `reset_at_s` is in Unix seconds: when all may come again."""

    requests_max: int
    events_max: int
    requests: int
    events: int
    reset_at_s: int


class SlidingWindow:
    __slots__ = ("_events", "_events_max", "_requests", "_requests_max", "_seconds")

    def __init__(self, *, requests_max: int, events_max: int) -> None:
        self._requests_max, self._events_max = requests_max, events_max
        self._seconds: deque[list[int]] = deque()
        """[second, requests, events], ascending; none that is empty."""
        self._requests = self._events = 0

    def take_request(self, now_ms: int) -> bool:
        """Whether one more request may be served; one that is not costs nothing."""
        second = self._now(now_ms)
        if self._requests >= self._requests_max:
            return False
        second[1] += 1
        self._requests += 1
        return True

    def take_events(self, events: int, now_ms: int) -> bool:
        """Whether so many may be stored; more than a minute may have at all never fit."""
        second = self._now(now_ms)
        if self._events + events > self._events_max:
            return False
        second[2] += events
        self._events += events
        return True

    def wait_s(self, now_ms: int) -> int:
        """Whole seconds until something of the window is over."""
        self._forget(now_ms // 1000)
        first = next((second for second, requests, events in self._seconds if requests or events), now_ms // 1000)
        return max(1, first + SECONDS + 1 - now_ms // 1000)

    def left(self, now_ms: int) -> Left:
        self._forget(now_ms // 1000)
        last = self._seconds[-1][0] if self._seconds else now_ms // 1000 - SECONDS
        return Left(
            self._requests_max,
            self._events_max,
            max(0, self._requests_max - self._requests),
            max(0, self._events_max - self._events),
            last + SECONDS + 1,
        )

    def _now(self, now_ms: int) -> list[int]:
        now_s = now_ms // 1000
        self._forget(now_s)
        if not self._seconds or self._seconds[-1][0] < now_s:
            self._seconds.append([now_s, 0, 0])
        return self._seconds[-1]

    def _forget(self, now_s: int) -> None:
        # A clock that was set back would keep what is in its future for ever.
        while self._seconds and not now_s - SECONDS <= self._seconds[0][0] <= now_s:
            _, requests, events = self._seconds.popleft()
            self._requests -= requests
            self._events -= events
