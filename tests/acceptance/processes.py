"""What the promise comes down to, for tests with real processes (lakehouse.torture), and a house that waits less."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from lakehouse.torture import edge_app
from lakehouse.torture import house as usual
from lakehouse.torture.compare import difference, document, state_of
from lakehouse.torture.house import ROOT, Child
from lakehouse.torture.process import WITHIN_S, Process, environment, is_alive, until
from rpc.commands import verify
from rpc.failpoints import VARIABLE, Failpoint

__all__ = [
    "ROOT",
    "WITHIN_S",
    "Child",
    "House",
    "Process",
    "assert_exactly_once",
    "assert_sums_agree",
    "dies_at",
    "dies_at_each",
    "document",
    "environment",
    "is_alive",
    "start_with",
    "until",
]


KEPT_IN = "EVODB_DATA_DIR"
"""A folder of this run (tests.environment)."""


class House(usual.House):
    """A house with a beat that asks ten times as often; its database is a copy of one that was migrated before.

    Migrating takes a process and 2 s of CPU, for every house the same.
    """

    _prepared: ClassVar[dict[tuple[str, str], str]] = {}
    """Databases as they were right after `prepare`, by their server and what was asked for."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self.beat.argv = ["tests.acceptance.hasty" if word == "evodb_site" else word for word in self.beat.argv]
        self.beat.env = {**self.beat.env, "PYTHONPATH": str(ROOT)}

    def prepare(self, **config: object) -> None:
        url = self.settings.resolved_database_url
        split = urlsplit(url)
        kind = (f"{split.scheme} {split.netloc} {split.query}", json.dumps(config))
        copy = copy_sqlite if split.scheme == "sqlite" else copy_postgres
        if kind in self._prepared:
            copy(self._prepared[kind], url)
        else:
            super().prepare(**config)
            if KEPT_IN in os.environ:  # a benchmark has one house
                self._prepared[kind] = copy(url, None)


def copy_sqlite(source: str, target: str | None) -> str:
    """Into a file beside the others of this run, when none is named."""
    target = target or f"sqlite:///{Path(os.environ[KEPT_IN], uuid.uuid4().hex)}"
    path = Path(target.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(source.removeprefix("sqlite:///"))) as made, closing(sqlite3.connect(path)) as copy:
        made.backup(copy)
    return target


def copy_postgres(source: str, target: str | None) -> str:
    """In place of the target, which is empty."""
    import psycopg

    found, name = urlsplit(source), f"prepared_{uuid.uuid4().hex[:8]}"
    if target is not None:
        name = urlsplit(target).path.strip("/")
    with psycopg.connect(found._replace(path="/postgres").geturl(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {found.path.strip('/')}")
    return found._replace(path=f"/{name}").geturl()


def assert_exactly_once(house: House, child: Child) -> int:
    """Source and lake, change by change and row by row; returns how many changes there were."""
    wanted, found = edge_app.ledger(child.database), house.changes(child.name)
    assert difference(wanted, found) is None, f"{child.name}: {difference(wanted, found)}"
    assert state_of(found) == edge_app.state(child.database)
    return len(found)


def assert_sums_agree(house: House) -> None:
    """Child, journal and files have the same sums, as who runs the house is told."""
    assert "green: " in house.manage("verify")
    for child in house.children:
        assert verify.command([child.database, "--parent", house.url, "--child", child.name]) == 0


def start_with(process: Process, **more: str) -> None:
    """Start it in this environment once; whoever starts it again starts it as usual."""
    usual = process.env
    process.env = {**usual, **more}
    process.start()
    process.env = usual


def dies_at(
    process: Process,
    point: Failpoint,
    *,
    visit: int = 1,
    meanwhile: Callable[[], None] = lambda: None,
    within_s: float = WITHIN_S,
) -> None:
    """Start a process that has this end before it, and again when it met it."""
    start_with(process, **{VARIABLE: f"{point}=kill@{visit}"})
    meanwhile()
    meets(process, point, within_s=within_s)
    process.start()


def dies_at_each(process: Process, points: Sequence[Failpoint], *, visit: int = 1) -> None:
    """Start a process that dies at the first of these, then one that dies at the next, and at last as usual."""
    for point in points:
        start_with(process, **{VARIABLE: f"{point}=kill@{visit}"})
        meets(process, point)
    process.start()


def meets(process: Process, point: Failpoint, *, within_s: float = WITHIN_S) -> None:
    """Its end, for which it was started."""
    running = process.running
    assert running is not None
    until(running.poll, f"{process.name} dies at {point}", process, within_s=within_s)
    assert running.returncode == -signal.SIGKILL, process.said
