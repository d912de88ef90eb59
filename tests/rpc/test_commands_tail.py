from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rpc.capture.onlooker import Onlooker
from rpc.capture.sqlite import SqliteCapture
from rpc.commands import tail, verify
from rpc.entries import RawEntry
from rpc.outbox import Outbox
from rpc.outbox_looking import look
from tests.rpc.test_cli import end_of, run, started

MIB = 1024 * 1024


def entries(count: int) -> list[RawEntry]:
    return [RawEntry(0, 1, 0, b"t", str(number).encode(), b"", b"{}") for number in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite3"


async def test_acks_and_refusals_are_told_as_they_come(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.append(entries(5))
        for _ in range(2):
            outbox.cut(entries_max=2, bytes_max=MIB)
        process = await started("tail", path, "--json", "--every", "0.01", cwd=path.parent)
        assert process.stdout is not None

        async def told(kind: str) -> dict[str, object]:
            async with asyncio.timeout(20):
                while True:
                    event = json.loads(await process.stdout.readline())
                    if event["event"] == kind:
                        return event

        now = await told("status")
        assert (now["pending"], now["uncut"], now["unacked_batches"], now["acked"]) == (5, 1, 2, 0)
        outbox.ack(1)
        assert await told("acked") == {"event": "acked", "sequence": 1, "entries": 2}
        outbox.reject(2, "no such table")
        refused = await told("refused")
        assert (refused["sequence"], refused["reason"]) == (2, "no such table")
        now = await told("status")
        assert (now["pending"], now["acked"], now["dead_letters"]) == (1, 2, 1)
        process.send_signal(signal.SIGINT)
        assert (await end_of(process)).code == 0


def test_a_look_writes_nothing_and_takes_no_lock(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.append(entries(3))
        before = sorted(found.name for found in path.parent.iterdir())
        onlooker = Onlooker(path)
        view = onlooker.look()
        assert view is not None
        assert (view.uncut, view.pending, view.epoch) == (3, 3, outbox.epoch)
        assert onlooker.look() is None
        assert sorted(found.name for found in path.parent.iterdir()) == before
        assert outbox.cut(entries_max=3, bytes_max=MIB) is not None


def test_a_captured_database_is_an_outbox_too(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user = sqlite3.connect(path, isolation_level=None)
    user.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    with SqliteCapture(path) as capture:
        capture.attach()
        user.execute("INSERT INTO t VALUES (1), (2)")
        code, out, _ = run(["tail", str(path), "--once"], capsys)
    user.close()
    assert (code, out) == (0, "pending 2  in flight 0  acked 0  refused 0\n")


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [(None, 2, "there is no file"), (b"", 1, "neither an outbox nor captured"), (b"text" * 400, 2, "not a SQLite")],
)
def test_a_file_that_is_no_outbox_is_said(
    path: Path, content: bytes | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        path.write_bytes(content)
    ended = run(["tail", str(path)], capsys)
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err


def test_a_database_that_somebody_locks_is_looked_at_again(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as user, SqliteCapture(path) as capture:
        user.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        capture.attach()
        onlooker = Onlooker(path, busy_s=0)
        user.execute("BEGIN EXCLUSIVE")
        assert tail._look(onlooker) is None
        user.execute("ROLLBACK")
        view = tail._look(onlooker)
        assert view is not None
        assert view.pending == 0


def in_wal_mode(path: Path) -> sqlite3.Connection:
    user = sqlite3.connect(path, isolation_level=None)
    user.execute("PRAGMA journal_mode = WAL")
    user.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY)")
    return user


def test_tail_and_verify_leave_no_files_beside_a_database_that_nobody_has_open(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(in_wal_mode(path)) as user, SqliteCapture(path) as capture:
        capture.attach()
        user.execute("INSERT INTO t VALUES (1), (2)")
    before = {found.name: found.read_bytes() for found in path.parent.iterdir()}
    assert run(["tail", str(path), "--once"], capsys).out.startswith("pending 2 ")
    assert verify.delivered(path).epoch
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        look(path, lambda connection: connection.execute("DELETE FROM _evodb_change"))
    assert {found.name: found.read_bytes() for found in path.parent.iterdir()} == before


def test_a_writer_that_comes_while_nobody_else_was_there_is_seen(path: Path) -> None:
    in_wal_mode(path).close()
    seen = []

    def work(connection: sqlite3.Connection) -> int:
        if not seen:
            seen.append(in_wal_mode(path))
            seen[0].execute("INSERT INTO t VALUES (1)")
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])

    assert look(path, work) == 1
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        look(path, lambda connection: connection.execute("SELECT 1 FROM nowhere"))
    seen[0].close()
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        look(path, lambda connection: connection.execute("SELECT 1 FROM nowhere"))
