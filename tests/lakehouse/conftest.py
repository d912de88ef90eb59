"""What tests of the server share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evodb_site.celery import app
from lakehouse import tasks
from lakehouse.flush.breaker_row import word
from tests.lakehouse.outage_site import Clock


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
def at_once() -> Iterator[None]:
    """What is asked for is done at once, by who asks; the way through a broker is walked in tests/acceptance."""
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False
