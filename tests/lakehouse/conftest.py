"""What tests of the server share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem

from evodb_site.celery import app
from lakehouse import tasks
from lakehouse.catalog.files import DurableFileIO
from lakehouse.flush.breaker_row import word
from tests.lakehouse.counted_s3 import s3, settings_of_s3
from tests.lakehouse.outage_site import Clock

__all__ = ["s3", "settings_of_s3"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def nobody_knows_of_earlier_outages() -> Iterator[None]:
    word.forget()
    yield
    word.forget()


@pytest.fixture
def worker(settings: Any, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """This process as a worker with a lake of its own; takes settings to work under."""

    def work_under(**changes: Any) -> None:
        settings.EVODB = dataclasses.replace(settings.EVODB, data_dir=tmp_path, **changes)
        tasks.flusher.cache_clear()

    work_under()
    yield work_under
    tasks.flusher.cache_clear()


@pytest.fixture
def asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets no answer of S3 asks once more, and not twice more after a pause of up to 3 s."""
    usual = DurableFileIO._initialize_s3_fs

    def asks_twice(self: DurableFileIO, netloc: str | None) -> FileSystem:
        made: Any = usual(self, netloc)
        rebuild, (options,) = made.__reduce__()
        return rebuild({**options, "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=2)})

    monkeypatch.setattr(DurableFileIO, "_initialize_s3_fs", asks_twice)


@pytest.fixture
def at_once() -> Iterator[None]:
    """What is asked for is done at once, by who asks; the way through a broker is walked in tests/acceptance."""
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False
