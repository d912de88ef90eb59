"""The files of an hour that is over become one: a commit every few seconds leaves hundreds of them.

    take ─ delete what is gone ─ write the others as one ─ note it ─ delete them

The note is one conditional UPDATE of the hour's row: before it the new file is nothing, after it the old ones are. It
fails when another file was announced meanwhile (`touch`). Each step may die and be repeated, and who comes late (an
exporter that slept, a second worker) leaves a name that is known to be gone: the next look deletes it. While both are
there a reader finds lines twice, under one `id`.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from django.core.files.base import File
from django.core.files.storage import Storage
from django.db.models import QuerySet

from lakehouse.catalog.files import sync
from lakehouse.events.namespaces import TABLE
from lakehouse.models import EventHour, Parent

log = logging.getLogger(__name__)

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
HOUR_MS = 3_600_000
AFTER_MS = HOUR_MS
"""After the last file of an hour that is over."""
AGAIN_MS = 24 * HOUR_MS
"""Looked at once more so much later, for whoever came late."""
TAKEN_MS = 10 * 60_000
"""Nobody else takes an hour for so long; who died is waited for."""
TARGET_BYTES = 128 * 2**20
"""A file so large stays as it is."""
WHOLE, PART = ".jsonl", ".part"


def folder_of(parent: Parent, hour: str) -> str:
    return f"{parent.namespace}/{TABLE}/{hour}"


def touch(parent: Parent, hour: str, *, now_ms: int) -> None:
    """There will be another file of this hour."""
    ends_ms = round(datetime.strptime(hour, "%Y/%m/%d/%H").replace(tzinfo=UTC).timestamp()) * 1000 + HOUR_MS
    due_ms = max(now_ms, ends_ms) + AFTER_MS
    EventHour.objects.update_or_create(parent=parent, hour=hour, defaults={"due_ms": due_ms})


def merge(store: Storage, *, now_ms: Callable[[], int], until: Callable[[], bool]) -> int:
    """Look at each hour that is due; returns how many files there are fewer."""
    fewer = 0
    due = EventHour.objects.filter(due_ms__lte=now_ms()).order_by("due_ms").values_list("pk", flat=True)
    for pk in list(due[:1000]):
        if until():
            break
        taken = _take(pk, now_ms())
        if taken is not None:
            fewer += _look(store, *taken, now_ms)
    return fewer


def _take(pk: int, now_ms: int) -> tuple[EventHour, bool] | None:
    """The hour, ours alone as long as nobody has a higher epoch, and whether somebody was at it and did not end."""
    hour = EventHour.objects.select_related("parent").filter(pk=pk, due_ms__lte=now_ms).first()
    if hour is None:
        return None
    gone = [*hour.gone, hour.planned] if hour.planned else hour.gone
    planned = f"{ulid(now_ms, uuid.uuid4().hex)}{WHOLE}"
    taken = EventHour.objects.filter(pk=pk, epoch=hour.epoch, due_ms=hour.due_ms).update(
        epoch=hour.epoch + 1, due_ms=now_ms + TAKEN_MS, planned=planned, gone=gone
    )
    return (EventHour.objects.select_related("parent").get(pk=pk), bool(hour.planned)) if taken else None


def _look(store: Storage, hour: EventHour, is_inherited: bool, now_ms: Callable[[], int]) -> int:
    folder = folder_of(hour.parent, hour.hour)
    names = _listed(store, folder)
    if hour.file and hour.file not in names:
        log.warning("%s/%s is not there: the files are elsewhere now, or somebody deleted it", folder, hour.file)
        hour.file, hour.gone = "", []
    gone = {name for name in names if name in set(hour.gone) or name.endswith(PART)}
    _delete(store, folder, gone)
    sizes = {name: store.size(f"{folder}/{name}") for name in names if name not in gone}
    pile = _pile(sizes)
    if len(pile) < 2:
        _leave(hour, now_ms(), is_done=not gone and not is_inherited)
        return len(gone)
    _write(store, folder, hour.planned, pile)
    if not _note(hour, pile):
        store.delete(f"{folder}/{hour.planned}")
        return len(gone)
    _delete(store, folder, pile)
    _leave(hour, now_ms(), is_done=False)
    log.info("%d files of %s are one", len(pile), folder)
    return len(gone) + len(pile) - 1


def _listed(store: Storage, folder: str) -> list[str]:
    try:
        return [name for name in store.listdir(folder)[1] if name.endswith((WHOLE, PART))]
    except FileNotFoundError:
        return []


def _pile(sizes: Mapping[str, int]) -> list[str]:
    """As many as fit into one, the smallest first; in order of their names."""
    pile, size = [], 0
    for name in sorted(sizes, key=lambda name: sizes[name]):
        size += sizes[name]
        if size > TARGET_BYTES:
            break
        pile.append(name)
    return sorted(pile)


def _write(store: Storage, folder: str, name: str, pile: Sequence[str]) -> None:
    with tempfile.TemporaryFile() as whole:
        for one in pile:
            with store.open(f"{folder}/{one}") as lines:
                shutil.copyfileobj(lines, whole)
        whole.seek(0)
        keep(store, f"{folder}/{name}", File(whole))


def _note(hour: EventHour, pile: Sequence[str]) -> bool:
    """From here on the old files are nothing; False when somebody else has the hour by now, or writes."""
    gone = sorted({*hour.gone, *pile})
    return _ours(hour).update(file=hour.planned, planned="", gone=gone) == 1


def _leave(hour: EventHour, now_ms: int, *, is_done: bool) -> None:
    """Until later, or for good."""
    if is_done:
        _ours(hour).delete()
    else:
        _ours(hour).update(due_ms=now_ms + AGAIN_MS, planned="")


def _ours(hour: EventHour) -> QuerySet[EventHour]:
    """The row, as long as nobody took it and no file of it was announced since."""
    return EventHour.objects.filter(pk=hour.pk, epoch=hour.epoch, due_ms=hour.due_ms)


def _delete(store: Storage, folder: str, names: Iterable[str]) -> None:
    for name in names:
        store.delete(f"{folder}/{name}")


def keep(store: Storage, name: str, content: File[bytes]) -> None:
    """Under this name, whole or not at all; in a folder it is on the disk before this returns. Raises OSError."""
    try:
        path = Path(store.path(name))
    except NotImplementedError:
        if store.exists(name):
            if store.size(name) == content.size:
                return  # whoever wrote it may have moved the position, so that nobody would write it again
            store.delete(name)  # a run before this one died here
        if (saved := store.save(name, content)) != name:
            store.delete(saved)
            raise OSError(f"{name} was written by somebody else at the same time; the next run finds it") from None
        return
    draft = Path(store.path(store.save(f"{name}.{uuid.uuid4().hex}{PART}", content)))
    sync(draft)
    draft.replace(path)
    sync(path.parent)


def ulid(moment_ms: int, seed: str) -> str:
    """The same for the same commit and hour."""
    number = (moment_ms << 80) | int.from_bytes(hashlib.sha256(seed.encode()).digest()[:10], "big")
    return "".join(CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))
