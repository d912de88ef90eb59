"""What workers do. Every task is harmless when it runs twice: the journal says what is left, not the broker."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from celery import shared_task
from django.conf import settings
from django.db.models import Min

from lakehouse.clock import now_ms
from lakehouse.errors import LakehouseError
from lakehouse.flush import backlog, breaker_row, history, letters
from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import FallbackBatch, Parent

if TYPE_CHECKING:
    from lakehouse.fallback.transfer import Transfer
    from lakehouse.flush.flow import Flusher
    from lakehouse.promotion import Promoter

log = logging.getLogger(__name__)

TO_THE_END = (FlushTrigger.MANUAL, FlushTrigger.GOODBYE, FlushTrigger.SHUTDOWN)
"""Reasons to flush all that waits; the others end where their threshold is not reached any more."""
RECOVER_EVERY_MS = 10_000
RECOVERY_MS = 5000
UPKEEP_MS = 5000
REFRESH_MS = 5000


@cache
def flusher() -> Flusher:
    """This process as a worker. The lake's libraries are loaded only here: the beat never needs their 60 MiB."""
    from lakehouse.catalog import lakes
    from lakehouse.flush.flow import Flusher

    owner = f"{socket.gethostname()}:{os.getpid()}"
    return Flusher(owner, settings.EVODB, lakes.chosen(settings.EVODB), now_ms)


@shared_task
def flush_parent(parent_id: int, trigger: str) -> int:
    """Flush a parent as long as the reason lasts. Returns the entries that went into tables."""
    entries, turn_ms = 0, now_ms() + RECOVER_EVERY_MS
    while wanted := _still_wanted(parent_id, FlushTrigger(trigger)):
        flushed = flusher().run(parent_id, trigger=wanted)
        if flushed is None:
            break
        if flushed.commit_number is not None:
            entries += flushed.entries
        if now_ms() >= turn_ms:  # children that never pause would keep their only worker here for ever
            recover_fallback(parent_id)
            turn_ms = now_ms() + RECOVER_EVERY_MS
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
def recover_fallback(parent_id: int | None = None) -> int:
    """Bring kept rows into their tables, of every parent or of this one, unless nobody asks the store now.

    For RECOVERY_MS and no longer, since the only worker of a laptop has fresh batches to flush as well; the beat asks
    again. Returns how many rows are in tables since.
    """
    until_ms = now_ms() + RECOVERY_MS
    kept = FallbackBatch.objects.filter(flush__isnull=False, parent__fuse_blown_ms=None)
    if parent_id is not None:
        kept = kept.filter(parent=parent_id)
    rows = 0
    oldest_first = kept.values("parent").annotate(oldest=Min("pk")).order_by("oldest")
    for pk in oldest_first.values_list("parent", flat=True):
        if now_ms() >= until_ms or not breaker_row.is_asked(now_ms=now_ms()):
            break
        moving = transfer(pk)
        moving.recover(until_ms=until_ms)
        rows += moving.rows
    return rows


def transfer(parent_id: int) -> Transfer:
    """What this process needs to bring the kept rows of a parent into their tables."""
    from lakehouse.fallback.transfer import Transfer

    worker = flusher()
    return Transfer(parent_id, worker.owner, worker.settings, worker.lake, now_ms)


@shared_task
def purge_files(metadata_location: str) -> int:
    """Delete the files of a dropped table, for somebody who asked for that. Returns how many there were."""
    from lakehouse.catalog.purge import purge
    from lakehouse.catalog.storage import from_settings

    return purge(from_settings(settings.EVODB), metadata_location)


@shared_task
def promote_field(parent_id: int, table: str, field: str, kind: str = "") -> str:
    """Make a column of a key of `_rest`, for somebody who asked for that. Returns what came of it."""
    parent = Parent.objects.get(pk=parent_id)
    try:
        return str(promoter().promote(parent, table, field, kind))
    except LakehouseError as exc:
        log.warning("%r of %s.%s did not become a column: %s", field, parent.namespace, table, exc)
        return str(exc)


def promoter() -> Promoter:
    """What this process needs to make columns."""
    from lakehouse.catalog.storage import from_settings
    from lakehouse.promotion import Promoter

    return Promoter(from_settings(settings.EVODB), settings.EVODB, now_ms, lambda ms: time.sleep(ms / 1000))


@shared_task
def forget_history() -> int:
    """Delete batches received more than `history_days` ago that are in their tables. Returns how many."""
    hold_days = settings.EVODB.subscription_hold_days
    return history.forget(settings.EVODB.history_days, now_ms=now_ms(), hold_days=hold_days)


@shared_task
def upkeep() -> int:
    """Keep tables in order, those first that waited longest, as long as UPKEEP_MS. Returns how many were looked at.

    For no longer, since the only worker of a laptop has flushes to do as well, and not at all while a buffer fills up;
    the beat asks again. Tables in a catalog that is not ours are not ours to keep.
    """
    from lakehouse.catalog.storage import from_settings
    from lakehouse.catalog.upkeep import rounds

    if settings.EVODB.catalog or not breaker_row.is_asked(now_ms=now_ms()):
        return 0
    until = _patience(UPKEEP_MS)
    return rounds.go(from_settings(settings.EVODB), settings.EVODB, now_ms=now_ms, until=until)


@shared_task
def refresh_current() -> int:
    """Bring tables of now up to date, those first that waited longest, as long as REFRESH_MS. Returns how many.

    Whoever was faster has done it; what the store did not take is done the next time. The catalog has to be ours.
    """
    from lakehouse.catalog.storage import from_settings
    from lakehouse.current import refresh

    if settings.EVODB.catalog or not breaker_row.is_asked(now_ms=now_ms()):
        return 0
    until = _patience(REFRESH_MS)
    return refresh.go(from_settings(settings.EVODB), settings.EVODB, now_ms=now_ms, until=until)


def _patience(most_ms: int) -> Callable[[], bool]:
    """Whether it is over: after so long, and at once while a buffer fills up, for flushes come first."""
    until_ms = now_ms() + most_ms
    return lambda: now_ms() >= until_ms or backlog.fullness() >= settings.EVODB.load_elevated


@shared_task
def export_events() -> int:
    """Write events that were committed as JSON lines, as long as UPKEEP_MS, and merge those of hours that are over.

    Returns how many files were written.

    From our own catalog only, for a foreign one does not say which commit a row came with.
    """
    if not settings.EVODB.events_jsonl or settings.EVODB.catalog or not breaker_row.is_asked(now_ms=now_ms()):
        return 0
    from lakehouse.catalog.storage import from_settings
    from lakehouse.events import hours, jsonl

    until_ms, config = now_ms() + UPKEEP_MS, settings.EVODB
    store = jsonl.storage_of(config)
    written = jsonl.export(store, from_settings(config), now_ms=now_ms, until=lambda: now_ms() >= until_ms)
    hours.merge(store, now_ms=now_ms, until=lambda: now_ms() >= until_ms)
    return written


def _still_wanted(parent_id: int, trigger: FlushTrigger) -> FlushTrigger | None:
    """A threshold may have been served by another worker since somebody asked."""
    return trigger if trigger in TO_THE_END else backlog.due_of(parent_id, now_ms=now_ms())


@shared_task
def forget_dead_letters() -> int:
    """Delete dead letters older than `dead_letter_days`, if that is not 0. Returns how many."""
    return letters.forget(settings.EVODB.dead_letter_days, now_ms=now_ms())
