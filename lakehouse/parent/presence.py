"""Which children are here, awake or asleep, and when they were heard of: written in bulk, not per message.

One UPDATE per state, 500 children and interval, however many heartbeats came, and one row for the lease of the process
while anybody is here; nothing runs while nobody is and nothing is to be told. Only who arrives takes a child over
(`arrivals.arrive`); all that is told here counts only while the child is still ours.
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
from django.db.models import Q

from lakehouse.models import Child, ConnectionState
from lakehouse.parent import leases

log = logging.getLogger(__name__)

AT_PROXY = "at a proxy"
"""Heard of, and held by a proxy: what it is stands in its row already."""
Told = ConnectionState | str


class Presence:
    """For one process, `holder`. `run` does database work and returns what it returns."""

    def __init__(
        self,
        run: Callable[[Callable[[], Any]], Awaitable[Any]],
        *,
        interval_ms: int,
        now_ms: Callable[[], int],
        holder: str | None = None,
    ) -> None:
        self._run = run
        self._interval_ms = interval_ms
        self._now_ms = now_ms
        self._holder = holder or leases.this_process()
        self._by_child: Counter[int] = Counter()
        self._asleep: set[int] = set()
        self._untold: dict[int, Told] = {}
        self._being_told: dict[int, Told] = {}
        self._telling: asyncio.Task[None] | None = None

    @property
    def sleeping(self) -> int:
        """Children that are here and asleep."""
        return len(self._asleep)

    def is_here(self, child_id: int) -> bool:
        """Whether a socket of this process is the child's."""
        return child_id in self._by_child

    def arrived(self, child_id: int) -> None:
        """One more connection of this child; more than one while an old socket has not noticed that it is dead."""
        self._by_child[child_id] += 1
        self._asleep.discard(child_id)
        self._untold.pop(child_id, None)
        if child_id in self._being_told:
            self._untold[child_id] = ConnectionState.AWAKE
        self._begin_telling()

    def woke(self, child_id: int) -> None:
        self._asleep.discard(child_id)
        self._note(child_id, ConnectionState.AWAKE)

    def slept(self, child_id: int) -> None:
        self._asleep.add(child_id)
        self._note(child_id, ConnectionState.HIBERNATING)

    def heard(self, child_id: int) -> None:
        """A heartbeat of a child that sleeps."""
        self._note(child_id, ConnectionState.HIBERNATING)

    def heard_at_proxy(self, child_id: int) -> None:
        """A word of a child whose socket is a proxy's."""
        if not self.is_here(child_id):
            self._note(child_id, AT_PROXY)

    def left(self, child_id: int) -> None:
        if self.handed_over(child_id):
            self._note(child_id, ConnectionState.GONE)

    def handed_over(self, child_id: int) -> bool:
        """One connection less, and whoever holds it now tells of it; whether it was the last one here."""
        self._by_child[child_id] -= 1
        if self._by_child[child_id] > 0:
            return False
        del self._by_child[child_id]
        self._asleep.discard(child_id)
        return True

    async def stop(self) -> None:
        """Give up the lease, which is one row, then tell what is untold."""
        if self._telling is not None:
            self._telling.cancel()
        self._untold = self._being_told | self._untold
        try:
            await self._run(partial(leases.end, self._holder))
        except DatabaseError as exc:
            log.warning("the lease of this process could not be given up, it runs out by itself: %s", exc)
        await self._tell()

    def _note(self, child_id: int, told: Told) -> None:
        self._untold[child_id] = told
        self._begin_telling()

    def _begin_telling(self) -> None:
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_while_anybody_is_here())

    async def _tell_while_anybody_is_here(self) -> None:
        while self._untold or self._by_child:
            await asyncio.sleep(self._interval_ms / 1000)
            await self._keep_lease()
            await self._tell()

    async def _keep_lease(self) -> None:
        if self._by_child:
            try:
                if not await self._run(self._renew_and_bury):
                    self._tell_anew()
            except DatabaseError as exc:
                log.warning("the lease of this process could not be renewed, later again: %s", exc)

    def _renew_and_bury(self) -> bool:
        """Whether the lease had not run out."""
        now_ms = self._now_ms()
        ran = leases.renew(self._holder, interval_ms=self._interval_ms, now_ms=now_ms)
        leases.bury(now_ms=now_ms)
        return ran

    def _tell_anew(self) -> None:
        """Somebody may have given our children up while the database was away."""
        states = (ConnectionState.AWAKE, ConnectionState.HIBERNATING)
        self._untold = {child_id: states[child_id in self._asleep] for child_id in self._by_child} | self._untold

    async def _tell(self) -> None:
        self._being_told, self._untold = self._untold, {}
        by_state: defaultdict[Told, list[int]] = defaultdict(list)
        for child_id, told in self._being_told.items():
            by_state[told].append(child_id)
        try:
            for told, child_ids in by_state.items():
                rest = iter(child_ids)
                while some := list(islice(rest, leases.AT_ONCE)):
                    await self._run(partial(_write, some, told, self._holder, self._now_ms()))
        except DatabaseError as exc:
            log.warning(
                "which of %d children are here could not be written, later again: %s", len(self._being_told), exc
            )
            self._untold = self._being_told | self._untold
        self._being_told = {}


def _write(child_ids: list[int], told: Told, holder: str, now_ms: int) -> None:
    children = Child.objects.filter(pk__in=child_ids)
    if told == AT_PROXY:
        at_proxy = children.filter(holder__startswith=leases.PROXY).exclude(state=ConnectionState.GONE)
        at_proxy.update(last_seen_ms=now_ms)
    elif told == ConnectionState.GONE:
        children.filter(holder=holder).update(state=told, last_seen_ms=now_ms)
    else:
        # Whom another process gave up, and we hear of, is ours.
        ours = children.filter(Q(holder=holder) | Q(state=ConnectionState.GONE))
        ours.update(state=told, holder=holder, last_seen_ms=now_ms)
