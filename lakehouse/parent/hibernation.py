"""Connections that fall asleep when nothing was said for a while, and what is answered without waking them.

One task for a process looks at those that are awake, every quarter of the time it takes to fall asleep, and ends when
all of them sleep. A sleeping connection has no timer, no session and no task but the one that waits for its child.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Protocol

import msgspec

from lakehouse.parent.key_watch import KeyHolder
from rpc.messages import HeartbeatMessage

LOOKS = 4
"""So often within `hibernate_after_ms`."""
HEARTBEAT_BYTES_MAX = 2048
BEATS_MAX = 100
"""Heartbeats in a row that are answered asleep; then the connection wakes and counts them."""
MEASURED_MAX = 100
"""Sleeping connections that are measured when somebody asks how large one is; 4 ms."""


class Napper(KeyHolder, Protocol):
    """An open connection."""

    @property
    def idle_since_ms(self) -> int: ...
    @property
    def kept_bytes(self) -> int:
        """Size of what is kept of it while it sleeps."""
        ...

    def fall_asleep(self) -> bool:
        """Keep only what has to be remembered; False when something is under way."""
        ...


class Dormitory:
    """For one process: who is awake. `after_ms` of silence put a connection to sleep; 0 never does."""

    def __init__(self, *, after_ms: int, now_ms: Callable[[], int]) -> None:
        self._after_ms = after_ms
        self._now_ms = now_ms
        self._awake: set[Napper] = set()
        self._asleep: set[Napper] = set()
        self._looking: asyncio.Task[None] | None = None
        self._is_stopped = False

    @property
    def awake(self) -> int:
        return len(self._awake)

    @property
    def asleep(self) -> int:
        """Connections that sleep."""
        return len(self._asleep)

    def everybody(self) -> list[Napper]:
        return [*self._awake, *self._asleep]

    def kept_bytes(self) -> int:
        """What one that sleeps takes, on average over a few of them; 0 when none does."""
        measured = [napper.kept_bytes for napper in islice(self._asleep, MEASURED_MAX)]
        return round(sum(measured) / len(measured)) if measured else 0

    def up(self, napper: Napper) -> None:
        """This connection is awake now, after a sleep or for the first time."""
        self._asleep.discard(napper)
        self._awake.add(napper)
        if self._after_ms and not self._is_stopped and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_until_all_sleep())

    def gone(self, napper: Napper) -> None:
        """This connection ended."""
        self._awake.discard(napper)
        self._asleep.discard(napper)

    def look(self) -> None:
        """Put to sleep who has been silent long enough."""
        now_ms = self._now_ms()
        for napper in [one for one in self._awake if now_ms - one.idle_since_ms >= self._after_ms]:
            if napper.fall_asleep():
                self._awake.discard(napper)
                self._asleep.add(napper)

    async def stop(self) -> None:
        """Nobody falls asleep any more."""
        self._is_stopped = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look_until_all_sleep(self) -> None:
        while self._awake:
            await asyncio.sleep(self._after_ms / LOOKS / 1000)
            self.look()


def answer_asleep(frame: str | bytes, *, now_ms: int) -> str | None:
    """The answer to a ping or a heartbeat; None when only a connection that is awake can tell."""
    if frame == "ping":
        return "pong"
    if len(frame) > HEARTBEAT_BYTES_MAX:
        return None
    try:
        heartbeat = _heartbeat(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return f'{{"type":"pong","timestamp":{heartbeat.timestamp},"serverTime":{now_ms}}}'


_heartbeat = msgspec.json.Decoder(HeartbeatMessage).decode
