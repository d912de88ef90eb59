"""Which children are here, awake or asleep, and when they were heard of: written in bulk, not per message.

One UPDATE per state, 500 children and interval, however many heartbeats came; nothing runs while nothing is to be told.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice
from typing import Any

from django.db import Error as DatabaseError

from lakehouse.models import Child, ConnectionState

log = logging.getLogger(__name__)

WRITTEN_AT_ONCE = 500
"""Children of one UPDATE; SQLite takes 999 parameters everywhere."""


class Presence:
    """For one process. `run` does database work and returns what it returns."""

    def __init__(
        self,
        run: Callable[[Callable[[], Any]], Awaitable[Any]],
        *,
        interval_ms: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._run = run
        self._interval_ms = interval_ms
        self._now_ms = now_ms
        self._by_child: Counter[int] = Counter()
        self._asleep: set[int] = set()
        self._untold: dict[int, ConnectionState] = {}
        self._telling: asyncio.Task[None] | None = None

    @property
    def sleeping(self) -> int:
        """Children that are here and asleep."""
        return len(self._asleep)

    def arrived(self, child_id: int) -> None:
        """One more connection of this child; more than one while an old socket has not noticed that it is dead."""
        self._by_child[child_id] += 1
        self._asleep.discard(child_id)

    def woke(self, child_id: int) -> None:
        self._asleep.discard(child_id)
        self._note(child_id, ConnectionState.AWAKE)

    def slept(self, child_id: int) -> None:
        self._asleep.add(child_id)
        self._note(child_id, ConnectionState.HIBERNATING)

    def heard(self, child_id: int) -> None:
        """A heartbeat of a child that sleeps."""
        self._note(child_id, ConnectionState.HIBERNATING)

    def left(self, child_id: int) -> None:
        self._by_child[child_id] -= 1
        if not self._by_child[child_id]:
            del self._by_child[child_id]
            self._asleep.discard(child_id)
            self._note(child_id, ConnectionState.GONE)

    async def stop(self) -> None:
        """Tell what is untold."""
        if self._telling is not None:
            self._telling.cancel()
        await self._tell()

    def _note(self, child_id: int, state: ConnectionState) -> None:
        self._untold[child_id] = state
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_later())

    async def _tell_later(self) -> None:
        while self._untold:
            await asyncio.sleep(self._interval_ms / 1000)
            await self._tell()

    async def _tell(self) -> None:
        untold, self._untold = self._untold, {}
        by_state: defaultdict[ConnectionState, list[int]] = defaultdict(list)
        for child_id, state in untold.items():
            by_state[state].append(child_id)
        try:
            for state, child_ids in by_state.items():
                rest = iter(child_ids)
                while some := list(islice(rest, WRITTEN_AT_ONCE)):
                    await self._run(partial(_write, some, state, self._now_ms()))
        except DatabaseError as exc:
            log.warning("which of %d children are here could not be written, later again: %s", len(untold), exc)
            self._untold = untold | self._untold


def _write(child_ids: list[int], state: ConnectionState, now_ms: int) -> None:
    Child.objects.filter(pk__in=child_ids).update(state=state, last_seen_ms=now_ms)
