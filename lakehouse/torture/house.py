"""A house as an operator runs it: daphne, worker and beat, its children, and what its journal and its lake say.

Journal and lake are read from outside, by SQL, as nobody of the house would.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lakehouse import up
from lakehouse.conf import Settings
from lakehouse.query import duck
from lakehouse.torture.compare import document
from lakehouse.torture.process import WITHIN_S, Process, environment

ROOT = Path(__file__).resolve().parents[2]
EDGE_APP = Path(__file__).with_name("edge_app.py")
PREPARE = """
import django, json, sys
django.setup()
from django.core.management import call_command
from lakehouse.models import Parent
call_command("migrate", verbosity=0)
Parent.objects.create(name="default", config=json.loads(sys.argv[1]))
"""
POINTERS = """
SELECT t.name, t.metadata_location FROM lakehouse_icebergtable t JOIN lakehouse_namespace n ON n.id = t.namespace_id
WHERE (n.name = 'current') = {is_now} ORDER BY n.name, t.name
"""


class Journal:
    """The database of a house, read by somebody else; by one thread after the other, if by several."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._connection: Any = None
        self._breaks: tuple[type[Exception], ...] = ()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        if self._connection is not None:
            with suppress(*self._breaks):  # a database that was away has ended this connection
                return self._asked(sql)
            self.close()
        self._connection = self._connect()
        return self._asked(sql)

    def one(self, sql: str) -> Any:
        return self.rows(sql)[0][0]

    def _asked(self, sql: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._connection.execute(sql).fetchall()
        return found

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Any:
        if self._url.startswith("sqlite"):
            path = self._url.removeprefix("sqlite:///")
            options: dict[str, Any] = {"uri": True, "timeout": 20, "isolation_level": None, "check_same_thread": False}
            return sqlite3.connect(f"file:{path}?mode=ro", **options)
        import psycopg

        self._breaks = (psycopg.OperationalError,)
        return psycopg.connect(self._url, autocommit=True)


class House:
    """An installation: its folder, its settings, its programs, and whoever streams into it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.given: dict[str, Any] = {"data_dir": folder / "data", **settings}
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

    def another(self, name: str, argv: Sequence[str]) -> Process:
        """One more program of this house, not started yet."""
        found = self.process(name, argv)
        self._all.append(found)
        return found

    def up(self) -> Process:
        """`evodb up`, not started yet."""
        return self.another("up", [str(Path(sys.executable).with_name("evodb")), "up"])

    def child(self, name: str, *, token: str = "", writes_per_s_max: float = 60) -> Child:
        database = self.folder / f"{name}.sqlite3"
        more = {"WRITES_PER_S_MAX": str(writes_per_s_max)} | ({"EVODB_TOKEN": token} if token else {})
        argv = [sys.executable, str(EDGE_APP), str(database), name, self.url]
        found = Child(name, self.process(name, argv, **more), str(database))
        self.children.append(found)
        self._all.append(found.process)
        return found

    def prepare(self, **config: object) -> None:
        """Migrate, and give the default parent its thresholds."""
        self.run([sys.executable, "-c", PREPARE, json.dumps(config)])

    def manage(self, *arguments: str, within_s: float = WITHIN_S) -> str:
        return self.run(self.command(*arguments), within_s=within_s)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "manage.py"), *arguments]

    def run(self, argv: Sequence[str], *, within_s: float = WITHIN_S, **more: str) -> str:
        """Run a program to its end and return what it said."""
        folder, env = self.folder / "cwd", environment(self.given, **more)
        folder.mkdir(exist_ok=True)
        done = subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=within_s)
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

    def lake(self, source: str | None = None, *, is_now: bool = False) -> list[dict[str, Any]]:
        """Every row (or those of this child) of every table with our columns and `_table`, as DuckDB reads them.

        Of the tables of changes, or of those of now.
        """
        wanted, values = ("WHERE _source = ?", [source]) if source is not None else ("", [])
        pointers = self.journal.rows(POINTERS.format(is_now=is_now))
        with duck.connect(self.settings) as connection:
            found = []
            for name, location in pointers:
                cursor = connection.execute(f"SELECT * FROM {duck.scan(location)} {wanted}", values)
                columns = [column[0] for column in cursor.description]
                found += [{"_table": name, **dict(zip(columns, row, strict=True))} for row in cursor.fetchall()]
        return found

    def changes(self, source: str) -> list[tuple[str, str, str, dict[str, Any]]]:
        """What the lake knows of a child, in order: operation, table, row id, the row by its columns."""
        rows = sorted(self.lake(source), key=lambda row: (row["_epoch"], row["_seq"]))
        return [(row["_op"], row["_table"], row["_row_id"], document(row)) for row in rows]

    def now(self, source: str) -> list[tuple[str, str, dict[str, Any]]]:
        """What the tables of now have of a child: table, row id, the row by its columns."""
        return [(row["_table"], row["_row_id"], document(row)) for row in self.lake(source, is_now=True)]


@dataclass
class Child:
    """A program that writes into its own database and streams."""

    name: str
    process: Process
    database: str
