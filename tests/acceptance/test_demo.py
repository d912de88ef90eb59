"""The main job at a small size: the demo survives the kill it makes, and its comparison is able to fail."""

from __future__ import annotations

import asyncio
import json
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
DL_IN_THE_LAKE = (
    "DL: entries: wanted 863, numbered 1 to 863, in one epoch; found (count, distinct, first, last, "
    "with values that fit no column) [(862, 862, 1, 862, 0)]"
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


def test_what_is_not_the_same_is_named_with_its_carrier(demo, tmp_path: Path) -> None:
    copy = shutil.copytree(demo[0] / "demo-lake", tmp_path / "demo-lake")
    _change(copy, "UA", "UPDATE flights SET arr_delay = arr_delay + 1 WHERE id = (SELECT max(id) FROM flights)")
    _change(copy, "WN", "UPDATE flights SET tailnum = NULL WHERE id = (SELECT min(id) FROM flights)")
    _change(copy, "US", "UPDATE flights SET time_hour = replace(time_hour, ':00Z', ':01Z')")
    _change(copy, "FL", "DELETE FROM flights")
    written = json.loads((copy / "written.json").read_text())
    written["DL"]["INSERT"] += 1
    (copy / "written.json").write_text(json.dumps(written))
    done = _run("compare.py", tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert {line.partition(": row ")[0] for line in done.stdout.splitlines() if re.match("[A-Z0-9]{2}: ", line)} == {
        *("UA: 1 rows differ", "WN: 1 rows differ", "US: 126 rows differ", "FL: 36 rows differ"),
        *("UA", "WN", "US", "FL"),
        "DL: INSERT: 432 written, 431 in the lake",
        DL_IN_THE_LAKE,
    }
    shown = [line.split()[1] for line in done.stdout.splitlines() if "different" in line]
    assert shown == ["DL", "FL", "UA", "US", "WN"]


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


def test_a_parent_that_ends_before_or_while_the_flights_stream_ends_the_demo_with_its_last_lines(
    monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(FLIGHTS))
    house, streaming = import_module("house"), import_module("streaming")
    program = tmp_path / "bin" / "evodb"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'worker died 5 times in a row' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    parent = house.House(tmp_path)
    ended = r"(?s)evodb up ended with 1\. \S+evodb-up\.log ends with:\n    worker died 5 times in a row$"
    with pytest.raises(house.Failed, match=ended):
        parent.start()
    street = streaming.Street(parent, None, show=print)
    with pytest.raises(house.Failed, match=ended):
        asyncio.run(street._until(lambda: False))
    parent.stop()


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


def _change(folder: Path, carrier: str, statement: str) -> None:
    """Behind the back of the lake."""
    with closing(sqlite3.connect(folder / "edges" / f"{carrier}.sqlite3")) as edge:
        assert edge.execute(statement).rowcount
        edge.commit()


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
