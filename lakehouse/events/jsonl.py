"""Events as JSON lines, by their time: <namespace>/events/YYYY/MM/DD/HH/<ulid>.jsonl, through Django's storage API.

    commit ─▶ its rows ─▶ a file for each hour ─▶ position          and later: the files of an hour ─▶ one (hours)

After the commit, pulling by its number: what is in no table is in no file. A file's name is made of the commit and the
hour, and the position moves when all of a commit is written; so whoever dies in between, the next one writes the same
files again, and each event is in one of them. In a folder a file is on the disk before the position moves.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, Storage
from pyiceberg.expressions import EqualTo
from pyiceberg.manifest import ManifestEntryStatus
from pyiceberg.table import Table

from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.conf import Settings
from lakehouse.events import event
from lakehouse.events.hours import folder_of, keep, touch, ulid
from lakehouse.events.namespaces import PARENT_PREFIX, TABLE
from lakehouse.models import EventExport, FlushTable, Parent

log = logging.getLogger(__name__)

COLUMNS = ["_ts", "_after"]


def storage_of(settings: Settings) -> Storage:
    """The folder or the bucket of `events_jsonl`, reached as the warehouse is."""
    _, separator, place = settings.events_jsonl.partition("://")
    if not separator:
        return FileSystemStorage(location=settings.events_jsonl)
    # boto3 is slow to load, and a folder needs none of it.
    from storages.backends.s3 import S3Storage  # type: ignore[import-untyped]

    bucket, _, prefix = place.partition("/")
    found: Storage = S3Storage(
        bucket_name=bucket,
        location=prefix,
        endpoint_url=settings.s3_endpoint or None,
        region_name=None if settings.s3_region == "auto" else settings.s3_region,
        access_key=settings.s3_access_key_id or None,
        secret_key=settings.s3_secret_access_key or None,
    )
    return found


def export(store: Storage, catalog: DjangoCatalog, *, now_ms: Callable[[], int], until: Callable[[], bool]) -> int:
    """Write what was committed since the last time; returns how many files there are more."""
    files = 0
    for parent in Parent.objects.filter(name__startswith=PARENT_PREFIX).order_by("pk"):
        position, _ = EventExport.objects.get_or_create(parent=parent)
        for number in range(position.commit_number + 1, parent.commit_number + 1):
            if until():
                return files
            files += _export(store, catalog, parent, number, now_ms())
            moved = EventExport.objects.filter(pk=parent.pk, commit_number=number - 1).update(commit_number=number)
            if not moved:  # somebody else is at it; the files are the same
                break
    return files


def _export(store: Storage, catalog: DjangoCatalog, parent: Parent, number: int, now_ms: int) -> int:
    done = FlushTable.objects.filter(flush__parent=parent, flush__commit_number=number, table=TABLE)
    found = done.select_related("flush").first()
    if found is None:
        return 0
    table = catalog.find((found.namespace, TABLE))
    if table is None:
        log.error("commit %d of %s has no JSON lines, for its table was dropped", number, parent.name)
        return 0
    hours: dict[str, list[bytes]] = defaultdict(list)
    for rows in _rows(table, found):
        moments, bodies = (cast(list[Any], rows[name].to_pylist()) for name in COLUMNS)
        for moment, body in zip(moments, bodies, strict=True):
            if line := _line(body):
                hours[moment.strftime("%Y/%m/%d/%H")].append(line)
    for hour, lines in hours.items():
        touch(parent, hour, now_ms=now_ms)
        name = ulid(found.flush.finished_ms or 0, f"{parent.namespace} {number} {hour}")
        keep(store, f"{folder_of(parent, hour)}/{name}.jsonl", ContentFile(b"".join(lines)))
    return len(hours)


def _rows(table: Table, found: FlushTable) -> Iterator[pa.Table]:
    """What this commit appended: its own files, or when they were merged since, its rows."""
    snapshot = table.metadata.snapshot_by_id(found.snapshot_id)
    try:
        if snapshot is not None:
            tables = [_read(table, path) for path in _added(table, snapshot)]
            yield from tables
            return
    except FileNotFoundError as exc:
        log.info("a file of snapshot %d was merged: %s", found.snapshot_id, exc)
    of_flush: Any = EqualTo
    these = of_flush("_flush", found.flush_id)
    yield table.scan(row_filter=these, selected_fields=tuple(COLUMNS)).to_arrow()


def _added(table: Table, snapshot: Any) -> list[str]:
    return [
        entry.data_file.file_path
        for manifest in snapshot.manifests(table.io)
        if manifest.added_snapshot_id == snapshot.snapshot_id
        for entry in manifest.fetch_manifest_entry(table.io)
        if entry.status == ManifestEntryStatus.ADDED and entry.snapshot_id == snapshot.snapshot_id
    ]


def _read(table: Table, path: str) -> pa.Table:
    opened: Any = table.io.new_input(path).open()
    with opened as file:
        return pq.read_table(file, columns=COLUMNS)


def _line(body: str | None) -> bytes:
    """Nothing for what is none: a child with a socket may have written anything into the table."""
    if body is None or not body.lstrip().startswith("{"):
        return b""
    try:
        return event.line(body.encode()) + b"\n"
    except event.UNREADABLE:
        return b""
