"""What workers do. Every task is harmless when it runs twice: the journal says what is left, not the broker."""

from __future__ import annotations

import os
import socket
from functools import cache
from typing import TYPE_CHECKING

from celery import shared_task
from django.conf import settings

from lakehouse.clock import now_ms
from lakehouse.flush import backlog, history
from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import Parent

if TYPE_CHECKING:
    from lakehouse.flush.flow import Flusher

TO_THE_END = (FlushTrigger.MANUAL, FlushTrigger.GOODBYE, FlushTrigger.SHUTDOWN)
"""Reasons to flush all that waits; the others end where their threshold is not reached any more."""


@cache
def flusher() -> Flusher:
    """This process as a worker. The lake's libraries are loaded only here: the beat never needs their 60 MiB."""
    from lakehouse.catalog.storage import from_settings
    from lakehouse.flush.flow import Flusher

    owner = f"{socket.gethostname()}:{os.getpid()}"
    return Flusher(owner, settings.EVODB, from_settings(settings.EVODB), now_ms)


@shared_task
def flush_parent(parent_id: int, trigger: str) -> int:
    """Flush a parent as long as the reason lasts. Returns the entries that went into tables."""
    entries = 0
    while wanted := _still_wanted(parent_id, FlushTrigger(trigger)):
        flushed = flusher().run(parent_id, trigger=wanted)
        if flushed is None:
            break
        entries += flushed.entries
    return entries


@shared_task
def flush_due() -> int:
    """Flush every parent whose time has come, whoever was to say so and died. Returns how many there were."""
    parents = Parent.objects.filter(pending_batches__gt=0).values_list("pk", flat=True)
    wanted = {pk: backlog.due_of(pk, now_ms=now_ms()) for pk in parents}
    due = {pk: trigger for pk, trigger in wanted.items() if trigger is not None}
    for pk, trigger in due.items():
        flush_parent.delay(pk, trigger.value)
    return len(due)


@shared_task
def forget_history() -> int:
    """Delete batches that are in their tables for longer than `history_days`. Returns how many."""
    return history.forget(settings.EVODB.history_days, now_ms=now_ms())


def _still_wanted(parent_id: int, trigger: FlushTrigger) -> FlushTrigger | None:
    """A threshold may have been served by another worker since somebody asked."""
    return trigger if trigger in TO_THE_END else backlog.due_of(parent_id, now_ms=now_ms())
