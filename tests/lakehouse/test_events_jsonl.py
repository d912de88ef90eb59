"""JSON lines: each committed event is in one file, by its hour, whoever dies in between."""

from __future__ import annotations

import dataclasses
import json

import pytest
from django.core.files.storage import FileSystemStorage

from lakehouse.catalog.storage import from_settings
from lakehouse.clock import now_ms
from lakehouse.events import jsonl
from lakehouse.models import EventExport, FlushTable
from tests.lakehouse.events_site import event, ingest, key_of
from tests.lakehouse.http_site import home
from tests.lakehouse.test_events_reading import flush
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

HOUR_MS = 3_600_000


def found(store, folder=""):
    """The names of all files and the events in them."""
    folders, files = store.listdir(folder)
    names = {}
    for name in files:
        with store.open(f"{folder}/{name}".lstrip("/")) as file:
            names[f"{folder}/{name}"] = file.read()
    for name in folders:
        names |= found(store, f"{folder}/{name}".lstrip("/"))
    return names


def lines(files):
    return sorted(json.loads(line)["docId"] for data in files.values() for line in data.splitlines())


def never():
    return False


async def test_events_are_written_by_their_hour_once(lake_settings, tmp_path):
    place = lake_settings.resolved_warehouse.replace("s3://lake/", "s3://lake/jsonl-")
    place = place if place.startswith("s3://") else str(tmp_path / "jsonl")
    config = dataclasses.replace(lake_settings, events_jsonl=place)
    store = jsonl.storage_of(config)

    def export():
        return jsonl.export(store, from_settings(config), until=never)

    async with home(open=False, data_dir=config.data_dir):
        token = await key_of("acme")
        body = json.dumps({"events": [event(1), event(2, age_ms=2 * HOUR_MS)]}, indent=2).encode()
        await ingest(body, token=token)
        assert await in_thread(export) == 0
        await flush(config)
        assert await in_thread(export) == 2
        await ingest({"events": [event(3)]}, token=token)
        await ingest({"events": [event(1)]}, token=await key_of("globex"))
        await flush(config)
        assert await in_thread(export) == 2
        assert await in_thread(export) == 0
    files = await in_thread(lambda: found(store))
    acme = {name: data for name, data in files.items() if name.startswith("acme/events/")}
    assert (len(files), len(acme), lines(acme)) == (4, 3, ["user-1", "user-2", "user-3"])
    for name, data in acme.items():
        _, _, *hour, ulid = name.split("/")
        assert len(ulid.removesuffix(".jsonl")) == 26
        for line in data.splitlines():
            assert json.loads(line)["ts"].replace("T", "-").replace(":", "-").split("-")[:4] == hour


async def test_whoever_dies_before_the_position_moved_leaves_no_event_twice(tmp_path, lake_settings):
    store = FileSystemStorage(location=tmp_path / "jsonl")
    async with home(data_dir=lake_settings.data_dir):
        await ingest({"events": [event(1), event(2)]})
        await flush(lake_settings)

    def export():
        return jsonl.export(store, from_settings(lake_settings), until=never)

    await in_thread(export)
    (name,) = before = await in_thread(lambda: found(store))
    store.delete(name)
    store.save(name, jsonl.ContentFile(b'{"half'))
    await in_thread(lambda: EventExport.objects.update(commit_number=0))
    await in_thread(export)
    assert await in_thread(lambda: found(store)) == before
    # The files of its snapshot were merged, and the snapshot is forgotten.
    await in_thread(lambda: (EventExport.objects.update(commit_number=0), FlushTable.objects.update(snapshot_id=1)))
    await in_thread(export)
    assert lines(await in_thread(lambda: found(store))) == ["user-1", "user-2"]


def test_a_name_is_the_same_for_the_same_commit_and_sorts_by_time():
    assert jsonl.ulid(now_ms(), "a")[:9] == jsonl.ulid(now_ms(), "b")[:9]
    assert jsonl.ulid(1, "a") != jsonl.ulid(1, "b")
    assert jsonl.ulid(1, "z") < jsonl.ulid(2, "a")
