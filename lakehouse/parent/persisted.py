"""Children that want to hear when a batch is in its tables: one look at the journal for all of a process.

A look costs two queries for up to 500 batches; nobody looks while nobody waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from django.db import Error as DatabaseError
from django.db.models import Max

from lakehouse.journal.accept import Source
from lakehouse.journal.watermark import Watermark
from lakehouse.models import Batch, BatchState, Child, FlushTable

log = logging.getLogger(__name__)

LOOK_EVERY_MS = 200
LOOKED_AT_MAX = 500
"""Batches in one query; the oldest first."""
BEFORE_ALL = -1
"""Batch 0 is one that history has forgotten."""
WATCHED_MAX = 20_000
"""Of one connection, 7 MiB; a child that wants to hear of more is asked to come back."""

Tell = Callable[[int, str], None]
"""Hears for which sequence it waited and the metadata file of a table that batch is in, empty when none is known."""


class PersistedWatch:
    """Who waits for which batch. `run` does database work and returns what it returns."""

    def __init__(self, run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._run = run
        self._waiting: dict[int, dict[tuple[object, int], Tell]] = {}
        self._watched: Counter[object] = Counter()
        """How many of them are each owner's."""
        self._looking: asyncio.Task[None] | None = None
        self._is_stopped = False

    @property
    def waiting(self) -> int:
        """Batches somebody waits for."""
        return len(self._waiting)

    def watch(self, batch_id: int, owner: object, sequence: int, tell: Tell) -> bool:
        """Tell when this batch is in its tables, unless the owner is forgotten first; False when it has too many, or
        nobody looks any more."""
        if self._is_stopped:
            return False
        watches = self._waiting.get(batch_id, {})
        if (owner, sequence) not in watches:
            if self._watched[owner] >= WATCHED_MAX:
                return False
            self._watched[owner] += 1
        self._waiting[batch_id] = watches
        watches[owner, sequence] = tell
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_until_told())
        return True

    def is_watched_by(self, owner: object) -> bool:
        return owner in self._watched

    def forget(self, owner: object) -> None:
        """A connection that ended waits for nothing."""
        if self._watched.pop(owner, 0):
            for batch_id, watches in list(self._waiting.items()):
                for watch in [watch for watch in watches if watch[0] is owner]:
                    del watches[watch]
                if not watches:
                    del self._waiting[batch_id]

    async def stop(self) -> None:
        """Look no more; who waits asks another process, or this one when it is back."""
        self._is_stopped = True
        self._waiting.clear()
        self._watched.clear()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look_until_told(self) -> None:
        after = BEFORE_ALL
        while self._waiting:
            # In turns: those of a parent that cannot flush are the oldest for ever.
            batch_ids = sorted(one for one in self._waiting if one > after)[:LOOKED_AT_MAX]
            if not batch_ids:
                after = BEFORE_ALL
                continue
            after = batch_ids[-1] if len(batch_ids) == LOOKED_AT_MAX else BEFORE_ALL
            try:
                found = await self._run(partial(persisted_of, batch_ids))
            except DatabaseError as exc:
                log.warning("cannot look for batches in tables, trying again: %s", exc)
                found = {}
            except Exception:
                log.exception("cannot look for batches in tables, trying again")
                found = {}
            for batch_id, path in found.items():
                for (owner, sequence), tell in self._waiting.pop(batch_id, {}).items():
                    self._told(owner)
                    tell(sequence, path)
            await asyncio.sleep(LOOK_EVERY_MS / 1000)

    def _told(self, owner: object) -> None:
        self._watched[owner] -= 1
        if not self._watched[owner]:
            del self._watched[owner]


def batch_of(source: Source, sequence: int) -> int | None:
    """The batch that has to be in its tables for this sequence to be; None when the sequence is not durable.

    A batch all of whose entries were stored before has no row of its own, nor has one whose history is forgotten: then
    it is the newest one of the child, and 0 without any, which is in its tables by now.
    """
    child = Child.objects.filter(pk=source.child_id).first()
    if child is None or source.epoch is None or sequence not in watermark_of(child, source.epoch):
        return None
    batches = Batch.objects.filter(child=source.child_id)
    own: int | None = batches.filter(epoch=source.epoch, sequence=sequence).values_list("pk", flat=True).first()
    return own or batches.aggregate(newest=Max("pk"))["newest"] or 0


def watermark_of(child: Child, epoch: int) -> Watermark:
    """What is durable of this epoch of the child's own."""
    sequence, islands = child.past_epochs.get(str(epoch), (0, []))
    if child.epoch_is_own and child.epoch == epoch:
        sequence, islands = child.sequence, child.islands
    return Watermark.of(sequence, islands)


def persisted_of(batch_ids: Iterable[int]) -> dict[int, str]:
    """Which of these are in their tables, each with the metadata file of one; history may be forgotten by now."""
    wanted = set(batch_ids)
    wanted -= set(Batch.objects.filter(pk__in=wanted).exclude(state=BatchState.PERSISTED).values_list("pk", flat=True))
    tables = FlushTable.objects.filter(flush__claimed__in=wanted).order_by("-pk")
    paths = dict(tables.values_list("flush__claimed", "metadata_location"))
    return {batch_id: paths.get(batch_id, "") for batch_id in wanted}
