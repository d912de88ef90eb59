"""What the promise comes down to, for tests with real processes (lakehouse.torture), and a house that waits less."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
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
from tests.preloaded import Popen, ended

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


class Preloaded(Process):
    """Begins with its libraries loaded: 0.2 s of CPU for a daphne that takes 0.8 (tests.preloaded)."""

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            self.running = Popen(self.argv, env=self.env, cwd=self.folder, start_new_session=True, **streams)


class PreloadedHouse(usual.House):
    """A house whose programs begin with their libraries loaded."""

    def process(self, name: str, argv: Sequence[str], **more: str) -> Process:
        return Preloaded(name, argv, environment(self.given, **more), self.folder / "cwd")

    def run(self, argv: Sequence[str], *, within_s: float = WITHIN_S, **more: str) -> str:
        folder = self.folder / "cwd"
        folder.mkdir(exist_ok=True)
        done = ended(argv, env=environment(self.given, **more), cwd=folder, within_s=within_s)
        assert done.returncode == 0, f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


class House(PreloadedHouse if KEPT_IN in os.environ else usual.House):  # type: ignore[misc]  # benchmarks measure memory
    """With a beat that asks ten times as often, and a copy of a database that was migrated before.

    Migrating takes 2 s of CPU, for every house the same.
    """

    _prepared: ClassVar[dict[str, str]] = {}
    """Databases as they were right after `prepare`, by their server."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self.beat.argv = ["tests.acceptance.hasty" if word == "evodb_site" else word for word in self.beat.argv]
        self.beat.env = {**self.beat.env, "PYTHONPATH": str(ROOT)}

    def prepare(self, **config: object) -> None:
        if KEPT_IN not in os.environ:
            super().prepare(**config)
            return
        url = self.settings.resolved_database_url
        split = urlsplit(url)
        server = f"{split.scheme} {split.netloc} {split.query}"
        copy = copy_sqlite if split.scheme == "sqlite" else copy_postgres
        if server in self._prepared:
            copy(self._prepared[server], url)
        else:
            super().prepare()
            self._prepared[server] = copy(url, None)
        with closing(connection_to(url)) as database, database:
            told = database.execute(f"UPDATE lakehouse_parent SET config = '{json.dumps(config)}'")
            assert told.rowcount == 1


def connection_to(url: str) -> Any:
    """To the database of a house, to write into it."""
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=20)
    import psycopg

    return psycopg.connect(url)


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
