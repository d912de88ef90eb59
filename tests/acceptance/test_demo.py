"""The main job at a small size: the demo survives the kill it makes, and its comparison is able to fail."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path

import duckdb
import pytest

FLIGHTS = Path(__file__).resolve().parents[2] / "examples" / "flights"
DEMO_S = 240

pytestmark = pytest.mark.skipif(
    os.environ.get("EVODB_TEST_DATABASE") == "postgresql", reason="the demo is a laptop of its own, on SQLite"
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder in which the demo ran, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, _run("demo.py", folder, FLIGHTS="3000")


def test_the_demo_kills_its_parent_and_everything_is_in_the_lake_once(demo) -> None:
    folder, done = demo
    log = (folder / "demo-lake" / "evodb-up.log").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    killed, restarted = re.search(r"parent killed \(pid (\d+), now (\d+)\)", done.stdout).groups()
    assert killed != restarted
    assert "daphne ended with -9" in log
    assert re.search(r"3,000 .* 6,000", done.stdout)
    assert "different" not in done.stdout


@pytest.mark.parametrize(
    ("tampering", "said"),
    [
        ("UPDATE flights SET arr_delay = arr_delay + 1 WHERE id = (SELECT max(id) FROM flights)", "UA: 1 rows differ"),
        ("UPDATE flights SET tailnum = '' WHERE id = (SELECT min(id) FROM flights)", "UA: 1 rows differ"),
        ("UPDATE flights SET time_hour = '2013-01-01T10:00:01Z' WHERE id = 1", "UA: 1 rows differ"),
        ("DELETE FROM flights WHERE id % 2", "UA: 2"),
    ],
)
def test_a_database_changed_behind_the_lakes_back_is_named(demo, tmp_path: Path, tampering: str, said: str) -> None:
    copy = shutil.copytree(demo[0] / "demo-lake", tmp_path / "demo-lake")
    with closing(sqlite3.connect(copy / "edges" / "UA.sqlite3")) as edge:
        assert edge.execute(tampering).rowcount
        edge.commit()
    done = _run("compare.py", tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert said in done.stdout
    assert [line for line in done.stdout.splitlines() if "different" in line and "UA" not in line] == []


def test_an_operation_more_than_the_lake_has_is_named(demo, tmp_path: Path) -> None:
    copy = shutil.copytree(demo[0] / "demo-lake", tmp_path / "demo-lake")
    written = copy / "written.json"
    written.write_text(
        re.sub(r'("DL": {"INSERT": )(\d+)', lambda found: found[1] + str(int(found[2]) + 1), written.read_text())
    )
    done = _run("compare.py", tmp_path)
    assert done.returncode == 1
    assert re.search(r"^DL: INSERT: 432 written, 431 in the lake$", done.stdout, re.MULTILINE)
    assert re.search(r"^DL: entries: wanted 863, numbered 1 to 863", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("sequences", "epoch_of_the_last", "rest"),
    [
        ([1, 2, 2], 1, None),
        ([1, 2, 3, 3], 1, None),
        ([1, 3], 1, None),
        ([1, 2, 4], 1, None),
        ([2, 3, 4], 1, None),
        ([1, 2, 3], 2, None),
        ([1, 2, 3], 1, '{"dep_time": "?"}'),
    ],
)
def test_an_entry_missing_or_twice_or_set_aside_is_found(monkeypatch, sequences, epoch_of_the_last, rest) -> None:
    assert _differences(monkeypatch, [(1, 1, None), (1, 2, None), (1, 3, None)]) == []
    entries = [(1, sequence, None) for sequence in sequences]
    entries[-1] = (epoch_of_the_last, sequences[-1], rest)
    assert len(_differences(monkeypatch, entries)) == 1


def test_flights_that_is_no_number_is_told_what_to_type(tmp_path: Path) -> None:
    done = _run("demo.py", tmp_path, FLIGHTS="many")
    assert done.returncode == 1
    assert "FLIGHTS=20000" in done.stderr
    assert list(tmp_path.iterdir()) == []


def _differences(monkeypatch: pytest.MonkeyPatch, entries: list[tuple[int, int, str | None]]) -> list[str]:
    """What the comparison says of these (epoch, sequence, rest) where three entries were written."""
    monkeypatch.syspath_prepend(str(FLIGHTS))
    compare = import_module("compare")
    with duckdb.connect() as lake:
        lake.execute("CREATE TABLE entries (_source TEXT, _epoch BIGINT, _seq BIGINT, _rest TEXT)")
        lake.executemany("INSERT INTO entries VALUES ('UA', ?, ?, ?)", entries)
        carrier = compare.Carrier("UA", written={"INSERT": 3}, found={})
        compare._compare_entries(carrier, lake)
    return carrier.differences


def _run(program: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the example in this folder; one that takes too long ends as with Ctrl-C, and its parent too."""
    command = [sys.executable, str(FLIGHTS / program)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=os.environ | {"COLUMNS": "200"} | environment, **pipes) as process:
        try:
            stdout, stderr = process.communicate(timeout=DEMO_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
