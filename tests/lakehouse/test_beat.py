"""Beat while the broker takes nothing: a line a minute, and it goes on by itself."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import schedule
from kombu.transport.virtual.base import BrokerState

from lakehouse import beat, folder_broker


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    monkeypatch.setattr(folder_broker.Transport, "global_state", BrokerState())
    folder_broker.register()
    for name in ("queue", "processed", "control"):
        (tmp_path / name).mkdir()
    options = {"data_folder_in": "queue", "data_folder_out": "queue", "processed_folder": "processed"}
    folders = {name: str(tmp_path / folder) for name, folder in (options | {"control_folder": "control"}).items()}
    made = Celery("beaten", broker="folder://localhost", set_as_current=False)
    made.conf.update(broker_transport_options=folders, task_ignore_result=True)
    yield made
    made.close()


@pytest.fixture
def due(app: Celery) -> ScheduleEntry:
    return ScheduleEntry("flush-due", "lakehouse.tasks.flush_due", schedule=schedule(5), app=app)


@pytest.fixture
def scheduler(app: Celery) -> beat.Scheduler:
    return beat.Scheduler(app, lazy=True)


def fill_the_disk(patch: pytest.MonkeyPatch) -> None:
    def write_what_fits(self: Path, text: str) -> int:
        self.write_bytes(text[:7].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(Path, "write_text", write_what_fits)


def messages(folder: Path) -> list[str]:
    return [path.suffix for name in ("queue", "processed") for path in (folder / name).iterdir()]


def test_a_full_disk_is_one_line_a_minute_and_no_traceback_and_beat_goes_on_when_there_is_room(
    scheduler: beat.Scheduler,
    due: ScheduleEntry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    now_s = 1000.0
    monkeypatch.setattr(beat.time, "monotonic", lambda: now_s)
    with monkeypatch.context() as patch:
        fill_the_disk(patch)
        for _ in range(13):
            scheduler.apply_entry(due, producer=scheduler.producer)
            now_s += 5
    line = (
        "the broker takes no tasks ([Errno 28] No space left on device); what is due is asked for again until it does"
    )
    assert [record.getMessage() for record in caplog.records] == [line, line]
    assert [record.exc_info for record in caplog.records] == [None, None]
    assert messages(tmp_path) == []
    scheduler.apply_entry(due, producer=scheduler.producer)
    scheduler.apply_entry(due, producer=scheduler.producer)
    assert caplog.messages[2:] == ["the broker takes tasks again"]
    assert messages(tmp_path) == [".msg", ".msg"]


def test_a_mistake_of_ours_is_told_with_its_frames(
    scheduler: beat.Scheduler, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = ScheduleEntry("flush-due", "lakehouse.tasks.flush_due", args=(object(),), schedule=schedule(5), app=app)
    scheduler.apply_entry(wrong, producer=scheduler.producer)
    [record] = caplog.records
    assert (record.getMessage(), record.exc_info is not None) == ("lakehouse.tasks.flush_due was not sent", True)
