"""The queries with an id that run in this process, and those of other processes that somebody wants to end.

While one of them runs here the database is asked once a second whether it is to end, and never otherwise. Who cancels
one of another process waits until it is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError

from lakehouse.clock import now_ms
from lakehouse.errors import InvalidQuery, QueryUnavailable
from lakehouse.query import named
from lakehouse.query.engine import Engine

log = logging.getLogger(__name__)

EVERY_S = 1.0
GONE_WITHIN_S = 5.0
LOOKS_S = 0.1
SLACK_MS = 10_000


class NamedQueries:
    def __init__(self, engine: Engine, *, timeout_ms: int) -> None:
        self._engine = engine
        self._term_ms = 2 * timeout_ms + SLACK_MS  # it may wait as long as it may run
        self._names: dict[int, str] = {}
        self._watch: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def known(self, name: str) -> AsyncIterator[None]:
        """Within this a query of this name may be cancelled from everywhere. Raises InvalidQuery when one runs."""
        pk = await self._begin(name)
        self._names[pk] = name
        if self._watch is None:
            self._watch = asyncio.create_task(self._look())
        try:
            yield
        finally:
            del self._names[pk]
            if not self._names:
                self._watch.cancel()
                self._watch = None
            await asyncio.shield(asyncio.ensure_future(_end(pk)))

    async def _begin(self, name: str) -> int:
        """Who hangs up meanwhile leaves no row."""
        begin = sync_to_async(named.begin)
        begun = asyncio.ensure_future(begin(name, term_ms=self._term_ms, now_ms=now_ms()))
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            with suppress(InvalidQuery):
                await _end(await begun)
            raise

    async def cancel(self, name: str) -> bool:
        """Whether there was such a query. Raises QueryUnavailable when its process does not end it."""
        if self._engine.cancel(name):
            return True
        pk = await sync_to_async(named.cancel)(name, now_ms=now_ms())
        if pk is None:
            return False
        try:
            async with asyncio.timeout(GONE_WITHIN_S):
                while await sync_to_async(named.is_there)(pk):
                    await asyncio.sleep(LOOKS_S)
        except TimeoutError:
            raise QueryUnavailable("the process of that query is dead, or too busy to end it; ask again") from None
        return True

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                asked = await sync_to_async(named.cancelled)([*self._names])
            except DatabaseError as exc:
                log.warning("nobody can say whether a query is to end: %s", exc)
                continue
            for pk in asked:
                if pk in self._names:
                    self._engine.cancel(self._names[pk])


async def _end(pk: int) -> None:
    try:
        await sync_to_async(named.end)(pk)
    except DatabaseError as exc:
        log.warning("a query that ended is known for a while: %s", exc)
