"""Processes as an operator runs them, for tests that kill them: a house of daphne, worker and beat, and its children.

Each process has an environment of its own (of EVODB_... only what is said here), an empty working folder, a session of
its own and a log, which is shown when something does not happen in time. Conditions are polled until a deadline. What
is in the journal and the lake is read from outside, by SQL, as nobody of the house would.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil

from lakehouse import up
from lakehouse.conf import Settings
from lakehouse.query import duck
from tests.acceptance import child_program

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 40.0
PREPARE = """
import django, json, sys
django.setup()
from django.core.management import call_command
from lakehouse.models import Parent
call_command("migrate", verbosity=0)
Parent.objects.create(name="default", config=json.loads(sys.argv[1]))
"""

Found = TypeVar("Found")


def environment(settings: Mapping[str, object], **more: str) -> dict[str, str]:
    """Ours without what belongs to this test run, and these settings as EVODB_..."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("EVODB_", "DJANGO_", "AWS_"))}
    wanted = {f"EVODB_{name.upper()}": str(value) for name, value in settings.items()}
    return ours | {"DJANGO_SETTINGS_MODULE": "evodb_site.settings", "PYTHONUNBUFFERED": "1"} | wanted | more


@dataclass
class Process:
    """A program that can be started again and again."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    """Its working folder; its log lies beside it."""
    running: subprocess.Popen[bytes] | None = None
    _tree: list[psutil.Process] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.name}.log")

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.argv,
                env=dict(self.env),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.running is not None
        return self.running.pid

    def send(self, number: int) -> None:
        assert self.running is not None
        self.running.send_signal(number)

    def kill(self) -> None:
        """As kill -9 does: this process, and nobody is told."""
        assert self.running is not None
        self.tree()
        self.running.kill()
        self.running.wait()

    def end(self, number: int = signal.SIGTERM, *, within_s: float = WITHIN_S) -> int:
        """Ask it to end and return its exit code."""
        assert self.running is not None
        self.tree()
        self.send(number)
        until(
            lambda: self.running is not None and self.running.poll() is not None,
            f"{self.name} ends",
            self,
            within_s=within_s,
        )
        return int(self.running.returncode)

    def tree(self) -> list[psutil.Process]:
        """This process and all it started, as far as anybody looked, dead or alive."""
        assert self.running is not None
        with suppress(psutil.NoSuchProcess):
            known = psutil.Process(self.running.pid)
            self._tree += [one for one in (known, *known.children(recursive=True)) if one not in self._tree]
        return self._tree

    def left(self) -> list[psutil.Process]:
        """What of the tree still lives."""
        return [one for one in self._tree if is_alive(one)]

    def clean_up(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.running is None:
            return
        self.tree()
        for one in self.left():
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.running.wait()


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def until(found: Callable[[], Found], what: str, *witnesses: Process, within_s: float = WITHIN_S) -> Found:
    """Wait for something to be true and return it; else say what did not happen, with the ends of the logs."""
    deadline = time.monotonic() + within_s
    while not (result := found()):
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {one.name}\n{one.said[-3000:]}" for one in witnesses)
            raise AssertionError(f"waited {within_s:.0f} s and it did not happen: {what}\n{logs}")
        time.sleep(0.005)
    return result


class Journal:
    """The database of a house, read by somebody else."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._connection: Any = None

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = self._connect()
        found: list[tuple[Any, ...]] = self._connection.execute(sql).fetchall()
        return found

    def one(self, sql: str) -> Any:
        return self.rows(sql)[0][0]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Any:
        if self._url.startswith("sqlite"):
            path = self._url.removeprefix("sqlite:///")
            return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20, isolation_level=None)
        import psycopg

        return psycopg.connect(self._url, autocommit=True)


class House:
    """An installation: its folder, its settings, its programs, and whoever streams into it."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.given = {"data_dir": folder / "data", **settings}
        self.settings = Settings(**self.given)
        self.journal = Journal(self.settings.resolved_database_url)
        self.daphne = self.process("daphne", up.daphne(self.settings).argv)
        self.worker = self.process("worker", up.worker().argv)
        self.beat = self.process("beat", up.beat().argv)
        self.children: list[Child] = []
        self._all = [self.daphne, self.worker, self.beat]

    def __enter__(self) -> House:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            stack.callback(self.journal.close)
            for process in self._all:
                stack.callback(process.clean_up)

    @property
    def url(self) -> str:
        return f"ws://{self.settings.up_host}:{self.settings.up_port}/ws"

    def process(self, name: str, argv: Sequence[str], **more: str) -> Process:
        return Process(name, argv, environment(self.given, **more), self.folder / "cwd")

    def up(self) -> Process:
        """`evodb up`, not started yet."""
        found = self.process("up", [str(Path(sys.executable).with_name("evodb")), "up"])
        self._all.append(found)
        return found

    def child(self, name: str, *, token: str = "", writes_per_s_max: float = 60) -> Child:
        database = self.folder / f"{name}.sqlite3"
        more = {"WRITES_PER_S_MAX": str(writes_per_s_max)} | ({"EVODB_TOKEN": token} if token else {})
        argv = [sys.executable, str(ROOT / "tests/acceptance/child_program.py"), str(database), name, self.url]
        found = Child(name, self.process(name, argv, **more), str(database))
        self.children.append(found)
        self._all.append(found.process)
        return found

    def prepare(self, **config: object) -> None:
        """Migrate, and give the default parent its thresholds."""
        self.run([sys.executable, "-c", PREPARE, json.dumps(config)])

    def manage(self, *arguments: str) -> str:
        return self.run([sys.executable, str(ROOT / "manage.py"), *arguments])

    def run(self, argv: Sequence[str]) -> str:
        """Run a program to its end and return what it said."""
        self.folder.joinpath("cwd").mkdir(exist_ok=True)
        done = subprocess.run(
            argv, env=environment(self.given), cwd=self.folder / "cwd", capture_output=True, text=True, timeout=WITHIN_S
        )
        assert done.returncode == 0, f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def stray_files(self) -> list[str]:
        """What was written into the working folder, where nothing belongs."""
        return sorted(path.name for path in (self.folder / "cwd").iterdir())

    def commit_number(self) -> int:
        return int(self.journal.one("SELECT coalesce(max(commit_number), 0) FROM lakehouse_parent"))

    def journalled(self) -> int:
        return int(self.journal.one("SELECT coalesce(max(id), 0) FROM lakehouse_batch"))

    def open_flush(self) -> int:
        """The id of the flush that is under way, or 0."""
        return int(self.journal.one("SELECT coalesce(max(id), 0) FROM lakehouse_flush WHERE state = 'open'"))

    def lake(self) -> list[dict[str, Any]]:
        """Every row of every table with our columns and `_table`, as DuckDB reads them."""
        pointers = self.journal.rows("SELECT name, metadata_location FROM lakehouse_icebergtable ORDER BY name")
        with duck.connect(self.settings) as connection:
            found = []
            for name, location in pointers:
                cursor = connection.execute(f"SELECT * FROM {duck.scan(location)}")
                columns = [column[0] for column in cursor.description]
                found += [{"_table": name, **dict(zip(columns, values, strict=True))} for values in cursor.fetchall()]
        return found

    def changes(self, source: str) -> list[tuple[str, str, str, dict[str, Any]]]:
        """What the lake knows of a child, in order: operation, table, row id, the row by its columns."""
        rows = [row for row in self.lake() if row["_source"] == source]
        rows.sort(key=lambda row: (row["_epoch"], row["_seq"]))
        return [(row["_op"], row["_table"], row["_row_id"], document(row)) for row in rows]


@dataclass
class Child:
    """A program that writes into its own database and streams."""

    name: str
    process: Process
    database: str


def document(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the source that a row of the lake shows: its typed columns, and `_rest` where a value fits none.

    The JSON the child sent, which the lake keeps as well, has to tell the same.
    """
    sent = json.loads(row["_before"] if row["_op"] == "DELETE" else row["_after"])
    rest = json.loads(row["_rest"]) if row["_rest"] else {}
    shown = {name: rest[name] if name in rest else row.get(name) for name in sent}
    told = {name: comparable(value, shown[name]) for name, value in sent.items()}
    assert shown == told, f"columns {shown} of {row['_row_id']} in {row['_table']}, wanted {told}"
    assert set(rest) <= set(sent), f"_rest has {sorted(rest)}, sent were {sorted(sent)}"
    return sent


def comparable(value: Any, shown: Any) -> Any:
    """A moment travels as text and is shown as a moment."""
    return datetime.fromisoformat(value) if isinstance(shown, datetime) else value


def state_of(changes: Sequence[tuple[str, str, str, dict[str, Any]]]) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows that are left after all changes, by table and row id."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for operation, table, row_id, row in changes:
        if operation == "DELETE":
            del rows[table, row_id]
        else:
            rows[table, row_id] = row
    return rows


def assert_exactly_once(house: House, child: Child) -> int:
    """Source and lake, change by change and row by row; returns how many changes there were."""
    wanted, found = child_program.ledger(child.database), house.changes(child.name)
    for number, (told, stored) in enumerate(zip(wanted, found, strict=False), 1):
        assert stored == told, f"change {number} of {child.name}"
    assert len(found) == len(wanted), f"{child.name} made {len(wanted)} changes, {len(found)} are in the lake"
    assert state_of(found) == child_program.state(child.database)
    return len(found)
