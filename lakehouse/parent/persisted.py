"""Children that want to hear when a batch is in its tables: one look at the journal for all of a process.

A look costs two queries for up to 500 batches; nobody looks while nobody waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from django.db import Error as DatabaseError
from django.db.models import Max

from lakehouse.journal.accept import Source
from lakehouse.models import Batch, BatchState, FlushTable

log = logging.getLogger(__name__)

LOOK_EVERY_MS = 200
LOOKED_AT_MAX = 500
"""Batches in one query; the oldest first."""

Tell = Callable[[str], None]
"""Hears the metadata file of a table the batch is in, or nothing when none is known any more."""


class PersistedWatch:
    """Who waits for which batch. `run` does database work and returns what it returns."""

    def __init__(self, run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._run = run
        self._waiting: dict[int, dict[object, list[Tell]]] = {}
        self._looking: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Batches somebody waits for."""
        return len(self._waiting)

    def watch(self, batch_id: int, owner: object, tell: Tell) -> None:
        """Tell when this batch is in its tables, unless the owner is forgotten first."""
        self._waiting.setdefault(batch_id, {}).setdefault(owner, []).append(tell)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_until_told())

    def is_watched_by(self, owner: object) -> bool:
        return any(owner in owners for owners in self._waiting.values())

    def forget(self, owner: object) -> None:
        """A connection that ended waits for nothing."""
        for batch_id in [batch_id for batch_id, owners in self._waiting.items() if owner in owners]:
            del self._waiting[batch_id][owner]
            if not self._waiting[batch_id]:
                del self._waiting[batch_id]

    async def _look_until_told(self) -> None:
        while self._waiting:
            batch_ids = sorted(self._waiting)[:LOOKED_AT_MAX]
            try:
                found = await self._run(partial(persisted_of, batch_ids))
            except DatabaseError as exc:
                log.warning("cannot look for batches in tables, trying again: %s", exc)
                found = {}
            for batch_id, path in found.items():
                for tells in self._waiting.pop(batch_id, {}).values():
                    for tell in tells:
                        tell(path)
            await asyncio.sleep(LOOK_EVERY_MS / 1000)


def batch_of(source: Source, sequence: int) -> int | None:
    """The batch that has to be in its tables for this sequence to be; None when it never was in the journal.

    A batch all of whose entries were stored before has no row of its own: then it is the newest one of the child.
    """
    batches = Batch.objects.filter(child=source.child_id)
    if source.epoch is None:
        return None
    own = batches.filter(epoch=source.epoch, sequence=sequence).values_list("pk", flat=True).first()
    newest: int | None = own or batches.aggregate(newest=Max("pk"))["newest"]
    return newest


def persisted_of(batch_ids: Iterable[int]) -> dict[int, str]:
    """Which of these are in their tables, each with the metadata file of one; history may be forgotten by now."""
    wanted = set(batch_ids)
    wanted -= set(Batch.objects.filter(pk__in=wanted).exclude(state=BatchState.PERSISTED).values_list("pk", flat=True))
    tables = FlushTable.objects.filter(flush__claimed__in=wanted).order_by("-pk")
    paths = dict(tables.values_list("flush__claimed", "metadata_location"))
    return {batch_id: paths.get(batch_id, "") for batch_id in wanted}
