"""Keys of open connections, looked at once a minute: one that was revoked or ran out ends them, asleep or not.

A connection that sends batches is asked about its key within ten seconds by itself; this is for those that say nothing.
One query a minute for a process, and none while nobody came with a key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from django.db import Error as DatabaseError

from lakehouse.parent import access

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0


class KeyHolder(Protocol):
    """An open connection."""

    @property
    def key_id(self) -> int | None: ...
    def lose_key(self) -> None:
        """Its key is no good any more; the connection ends."""
        ...


class KeyWatch:
    """For one process. `holders` gives the open connections; `run` does database work and returns what it returns."""

    def __init__(
        self,
        run: Callable[[Callable[[], Any]], Awaitable[Any]],
        holders: Callable[[], Iterable[KeyHolder]],
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._run = run
        self._holders = holders
        self._now_ms = now_ms
        self._looking: asyncio.Task[None] | None = None
        self._is_stopped = False

    def begin(self) -> None:
        """Somebody came in with a key."""
        if not self._is_stopped and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_while_somebody_has_a_key())

    async def look(self) -> bool:
        """End the connections whose keys are no good any more; whether any connection has a key."""
        held = {holder.key_id for holder in self._holders() if holder.key_id is not None}
        now_ms = self._now_ms()
        try:
            good = await self._run(lambda: access.those_alive(held, now_ms=now_ms))
        except DatabaseError as exc:
            log.warning("cannot look at the keys of open connections, tried again soon: %s", exc)
            return True
        for holder in [one for one in self._holders() if one.key_id in held - good]:
            holder.lose_key()
        return bool(good)

    async def stop(self) -> None:
        self._is_stopped = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look_while_somebody_has_a_key(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not await self.look():
                return
