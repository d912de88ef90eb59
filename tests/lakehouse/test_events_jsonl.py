"""JSON lines: each committed event is in one file, by its hour, whoever dies in between."""

from __future__ import annotations

import dataclasses
import json

import pytest
from django.core.files.storage import FileSystemStorage

from lakehouse.catalog.storage import from_settings
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.events import hours, jsonl
from lakehouse.journal.accept import accept
from lakehouse.models import EventExport, EventHour, FlushTable, Parent
from tests.builders import entry, frame, source
from tests.lakehouse.events_site import event, ingest, key_of
from tests.lakehouse.http_site import home
from tests.lakehouse.test_events_reading import flush
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

HOUR_MS = 3_600_000
HOUR, OVER_MS = "1970/01/02/03", 28 * HOUR_MS
LATER_MS = OVER_MS + hours.AFTER_MS


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
        return jsonl.export(store, from_settings(config), now_ms=now_ms, until=never)

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
    await in_thread(lambda: hours.merge(store, now_ms=lambda: now_ms() + 3 * HOUR_MS, until=never))
    files = await in_thread(lambda: found(store))
    acme = {name: data for name, data in files.items() if name.startswith("acme/events/")}
    assert (len({name.rpartition("/")[0] for name in acme}), lines(acme)) == (len(acme), ["user-1", "user-2", "user-3"])


async def test_what_a_socket_writes_into_the_table_of_events_keeps_no_event_out_of_the_files(tmp_path):
    config = Settings(data_dir=tmp_path)
    store = FileSystemStorage(location=tmp_path / "jsonl")

    def write():
        rough = [b"", b"[1]", b'{"a":NaN,\n"b":1}', b'{"type":"custom.x",\n"a":NaN}', b'"text"']
        entries = [entry(at, table="events")._replace(after=after) for at, after in enumerate(rough, start=1)]
        accept([(source(Parent.objects.get(name="events.default"), "shop-1"), frame(1, entries))], now_ms=now_ms())

    async with home(data_dir=tmp_path):
        await ingest({"events": [event(1)]})
        await in_thread(write)
        await flush(config)
        await in_thread(lambda: jsonl.export(store, from_settings(config), now_ms=now_ms, until=never))
    assert lines(await in_thread(lambda: found(store))) == ["user-1"]


async def test_whoever_dies_before_the_position_moved_leaves_no_event_twice(tmp_path, lake_settings):
    store = FileSystemStorage(location=tmp_path / "jsonl")
    async with home(data_dir=lake_settings.data_dir):
        await ingest({"events": [event(1), event(2)]})
        await flush(lake_settings)

    def export():
        return jsonl.export(store, from_settings(lake_settings), now_ms=now_ms, until=never)

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
    assert hours.ulid(now_ms(), "a")[:9] == hours.ulid(now_ms(), "b")[:9]
    assert hours.ulid(1, "a") != hours.ulid(1, "b")
    assert hours.ulid(1, "z") < hours.ulid(2, "a")


class Death(BaseException):
    """Of the process."""


@pytest.fixture
def store(tmp_path):
    return FileSystemStorage(location=tmp_path / "jsonl")


@pytest.fixture
def parent():
    return Parent.objects.create(name="events.acme", namespace="acme")


def wrote(store, parent, number, *, at_ms=0):
    """What an exporter does for a commit."""
    hours.touch(parent, HOUR, now_ms=at_ms)
    line = json.dumps({"docId": f"user-{number}"}).encode() + b"\n"
    hours.keep(store, f"{hours.folder_of(parent, HOUR)}/{number:026}.jsonl", jsonl.ContentFile(line))


def merged(store, *, at_ms=LATER_MS):
    return hours.merge(store, now_ms=lambda: at_ms, until=never)


def test_files_of_an_hour_that_is_over_become_one(store, parent):
    for number in range(3):
        wrote(store, parent, number)
    assert merged(store, at_ms=OVER_MS + hours.AFTER_MS - 1) == 0
    assert merged(store) == 2
    (name,) = files = found(store)
    assert name.startswith(f"acme/events/{HOUR}/")
    assert lines(files) == ["user-0", "user-1", "user-2"]


def test_a_late_event_joins_them_and_an_hour_that_is_done_is_not_looked_at_again(store, parent):
    wrote(store, parent, 1)
    wrote(store, parent, 2)
    merged(store)
    wrote(store, parent, 3, at_ms=LATER_MS)
    assert merged(store, at_ms=LATER_MS + hours.AFTER_MS) == 1
    assert (len(found(store)), lines(found(store))) == (1, ["user-1", "user-2", "user-3"])
    assert merged(store, at_ms=2 * LATER_MS) == 0
    assert not EventHour.objects.exists()


STEPS = {
    "before it is written": (hours, "keep"),
    "before it is noted": (hours, "_note"),
    "before the old ones are deleted": (hours, "_delete"),
    "before it leaves": (hours, "_leave"),
}


@pytest.mark.parametrize(("where", "name"), STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("is_done_first", [False, True])
def test_whoever_dies_while_merging_leaves_each_line_once(store, parent, monkeypatch, where, name, is_done_first):
    wrote(store, parent, 1)
    wrote(store, parent, 2)
    step, calls = getattr(where, name), []

    def die(*args, **keywords):
        calls.append(args)
        if name == "_delete" and len(calls) == 1:  # of what was gone before
            return step(*args, **keywords)
        if is_done_first:
            step(*args, **keywords)
        raise Death

    with monkeypatch.context() as patched:
        patched.setattr(where, name, die)
        with pytest.raises(Death):
            merged(store)
    for again in range(1, 4):
        merged(store, at_ms=LATER_MS + again * hours.AGAIN_MS)
    assert (len(found(store)), lines(found(store))) == (1, ["user-1", "user-2"])
    assert not EventHour.objects.exists()


def test_a_second_worker_that_wakes_up_late_changes_nothing(store, parent, monkeypatch):
    wrote(store, parent, 1)
    wrote(store, parent, 2)
    note = hours._note

    def sleep_past_the_term(*args):
        monkeypatch.setattr(hours, "_note", note)
        assert merged(store, at_ms=LATER_MS + hours.TAKEN_MS) == 2  # the two, and what the sleeper had written
        return note(*args)

    monkeypatch.setattr(hours, "_note", sleep_past_the_term)
    merged(store)
    assert (len(found(store)), lines(found(store))) == (1, ["user-1", "user-2"])


def test_an_exporter_that_slept_writes_again_what_was_merged_and_it_is_there_once(store, parent):
    wrote(store, parent, 1)
    wrote(store, parent, 2)
    merged(store)
    wrote(store, parent, 1, at_ms=LATER_MS)
    assert merged(store, at_ms=LATER_MS + hours.AFTER_MS) == 1
    assert lines(found(store)) == ["user-1", "user-2"]


def test_a_file_that_is_announced_while_others_are_merged_waits_for_the_next_time(store, parent, monkeypatch):
    wrote(store, parent, 1)
    wrote(store, parent, 2)
    write = hours._write

    def meet(*args):
        wrote(store, parent, 3, at_ms=LATER_MS)
        write(*args)

    with monkeypatch.context() as patched:
        patched.setattr(hours, "_write", meet)
        assert merged(store) == 0
    assert merged(store, at_ms=LATER_MS + hours.AFTER_MS) == 2
    assert lines(found(store)) == ["user-1", "user-2", "user-3"]


def test_files_that_are_large_enough_and_what_is_elsewhere_by_now_stay(store, parent, monkeypatch, tmp_path):
    monkeypatch.setattr(hours, "TARGET_BYTES", 40)
    for number in range(3):
        wrote(store, parent, number)
    assert merged(store) == 1
    assert (len(found(store)), lines(found(store))) == (2, ["user-0", "user-1", "user-2"])
    other = FileSystemStorage(location=tmp_path / "other")
    for number in range(3):
        wrote(other, parent, number, at_ms=LATER_MS)
    assert merged(other, at_ms=LATER_MS + hours.AFTER_MS) == 1
    assert lines(found(other)) == ["user-0", "user-1", "user-2"]


def test_half_a_file_of_an_exporter_that_died_is_no_file(store, parent):
    wrote(store, parent, 1)
    store.save(f"{hours.folder_of(parent, HOUR)}/x.jsonl.0{hours.PART}", jsonl.ContentFile(b'{"docId'))
    assert merged(store) == 1
    assert lines(found(store)) == ["user-1"]
