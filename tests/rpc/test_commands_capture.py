from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from lakehouse.models import BatchPayload, Child
from lakehouse.parent import access
from rpc import columns
from rpc.commands import screen
from rpc.outbox import Outbox
from rpc.outcome import ClientState
from tests.builders import NOW_MS
from tests.lakehouse.test_intake import in_thread
from tests.rpc.test_cli import Ended, end_of, evodb, run, started
from tests.server import serving
from tests.services import free_port

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "shop.db", isolation_level=None, timeout=20)
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
    connection.execute("CREATE TABLE secrets (id INTEGER PRIMARY KEY, text TEXT)")
    connection.execute("INSERT INTO orders VALUES (1, 'tea'), (2, 'milk')")
    yield connection
    connection.close()


def rows() -> list[tuple[str, str]]:
    payloads = [bytes(row.payload) for row in BatchPayload.objects.order_by("pk")]
    found = [entry for payload in payloads for entry in columns.decode(payload).entries()]
    return [(entry.table.decode(), entry.row_id.decode()) for entry in found]


async def event_of(process: asyncio.subprocess.Process, kind: str, **fields: Any) -> dict[str, Any]:
    """The next event of this kind with these fields."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while line := await process.stdout.readline():
            event = json.loads(line)
            if event["event"] == kind and fields.items() <= event.items():
                return event
    raise AssertionError((await end_of(process)).err)


def schema(user: sqlite3.Connection) -> list[Any]:
    return user.execute("SELECT name, sql FROM sqlite_schema ORDER BY rowid").fetchall()


async def capture(url: str, cwd: Path, *more: object, **streams: Any) -> Ended:
    return await evodb("capture", "shop.db", "--parent", url, *more, cwd=cwd, **streams)


def nobody() -> str:
    """The address of a parent that is away."""
    return f"ws://127.0.0.1:{free_port()}/ws"


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


async def test_once_sends_the_snapshot_and_ends_and_detach_leaves_nothing(
    tmp_path: Path, user: sqlite3.Connection
) -> None:
    before, files = schema(user), sorted(tmp_path.iterdir())
    async with serving() as server:
        ended = await capture(server.url, tmp_path, "--tables", "orders", "--snapshot", "--once", "--json")
        assert (ended.code, ended.err) == (0, ""), ended
        assert ended.events[0] == {"event": "attached", "database": "shop.db", "child": "shop", "tables": ["orders"]}
        assert {"event": "progress", "what": "snapshot orders", "done": 2, "total": 2} in ended.events
        assert ended.events[-1] == {"event": "stopped", "acked": 2, "pending": 0}
        assert await in_thread(rows) == [("orders", "1"), ("orders", "2")]
        assert await in_thread(lambda: Child.objects.get().name) == "shop"
    detached = await evodb("capture", "shop.db", "--detach", cwd=tmp_path)
    assert (detached.code, detached.out) == (0, "shop.db is as it was before capture\n")
    assert (schema(user), sorted(tmp_path.iterdir())) == (before, files)


async def test_a_snapshot_that_is_complete_is_not_told_again_by_later_runs(
    tmp_path: Path, user: sqlite3.Connection
) -> None:
    async with serving() as server:
        first = await capture(server.url, tmp_path, "--snapshot", "--once", "--json")
        again = await capture(server.url, tmp_path, "--snapshot", "--once", "--json")
    assert [event for event in first.events if event["event"] == "progress"] != []
    assert again.code == 0
    assert [event for event in again.events if event["event"] == "progress"] == []


async def test_who_moves_a_captured_database_to_another_parent_hears_that_its_rows_stay_behind(
    tmp_path: Path, user: sqlite3.Connection
) -> None:
    """It said that 0 changes were acknowledged and ended with 0, and the larger house stayed empty."""
    async with serving() as server:
        first = await capture(server.url, tmp_path, "--snapshot", "--once")
        again = await capture(server.url, tmp_path, "--snapshot", "--once")
        moved = await capture(f"{server.url}/larger", tmp_path, "--snapshot", "--once")
        assert (first.code, first.err, again.code, again.err, moved.code) == (0, "", 0, "", 0)
        assert "this parent knows none of the 1 batches that were acknowledged" in moved.err
        assert "`evodb capture --detach`, and then `--snapshot`, sends all rows there are" in moved.err
        assert (await evodb("capture", "shop.db", "--detach", cwd=tmp_path)).code == 0
        whole = await capture(f"{server.url}/larger", tmp_path, "--snapshot", "--once")
        assert (whole.code, whole.err) == (0, "")
        assert len(await in_thread(rows)) == 2 * len(set(await in_thread(rows)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_sends_what_waits_and_is_no_failure(
    tmp_path: Path, user: sqlite3.Connection, number: int
) -> None:
    async with serving() as server:
        process = await started(
            "capture", "shop.db", "--parent", server.url, "--child", "till-7", "--json", cwd=tmp_path
        )
        await event_of(process, "status", state="connected")
        user.execute("INSERT INTO orders VALUES (3, 'jam')")
        user.execute("CREATE TABLE late (id INTEGER PRIMARY KEY)")
        user.execute("INSERT INTO late VALUES (4)")
        await event_of(process, "status", acked=2, pending=0)
        user.execute("INSERT INTO orders VALUES (5, 'salt')")
        process.send_signal(number)
        ended = await end_of(process)
        assert ended.code == 0, ended
        assert ended.events[-1] == {"event": "stopped", "acked": 3, "pending": 0}
        assert sorted(await in_thread(rows)) == [("late", "4"), ("orders", "3"), ("orders", "5")]


async def test_a_database_that_is_replaced_under_capture_ends_it_and_the_next_run_goes_on(
    tmp_path: Path, user: sqlite3.Connection
) -> None:
    async with serving() as server:
        assert (await capture(server.url, tmp_path, "--once")).code == 0
        process = await started("capture", "shop.db", "--parent", server.url, "--json", cwd=tmp_path)
        await event_of(process, "status", state="connected")
        with closing(sqlite3.connect(tmp_path / "other.db")) as other:
            user.backup(other)
            other.execute("INSERT INTO orders VALUES (3, 'jam')")
            other.commit()
        (tmp_path / "other.db").rename(tmp_path / "shop.db")
        ended = await end_of(process)
        assert ended.code == 1
        assert json.loads(ended.err.splitlines()[-1])["code"] == "FILE_REPLACED"
        assert (await capture(server.url, tmp_path, "--once")).code == 0
        assert await in_thread(rows) == [("orders", "3")]


async def test_a_second_interrupt_ends_it_at_once_though_somebody_locks_the_database(
    tmp_path: Path, user: sqlite3.Connection
) -> None:
    async with serving() as server:
        process = await started("capture", "shop.db", "--parent", server.url, "--json", cwd=tmp_path)
        await event_of(process, "status", state="connected")
        user.execute("BEGIN EXCLUSIVE")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        ended = await end_of(process)
        user.execute("ROLLBACK")
    assert ended.code in (130, 143)
    assert ended.err == ""


# A parent that is away or refuses


async def test_without_a_parent_it_captures_all_the_same_and_says_why_and_what_waits(
    tmp_path: Path, user: sqlite3.Connection
) -> None:
    process = await started("capture", "shop.db", "--parent", nobody(), "--json", cwd=tmp_path)
    await event_of(process, "attached")
    user.execute("INSERT INTO orders VALUES (3, 'jam')")
    status = await event_of(process, "status", pending=1, state="connecting")
    while status["error"] is None:
        status = await event_of(process, "status", pending=1)
    assert re.fullmatch(r"cannot reach ws://127.0.0.1:\d+/ws: connection refused", status["error"])
    process.send_signal(signal.SIGINT)
    ended = await end_of(process)
    assert (ended.code, ended.events[-1]) == (0, {"event": "stopped", "acked": 0, "pending": 1})
    refused = await evodb("capture", "shop.db", "--detach", cwd=tmp_path)
    assert refused.code == 1
    assert "1 changes of shop.db have not reached the parent" in refused.err
    assert "--detach --force" in refused.err
    assert "detach(" not in refused.err
    assert (await evodb("capture", "shop.db", "--detach", "--force", cwd=tmp_path)).code == 0


async def test_once_gives_up_on_a_parent_that_is_away_and_keeps_everything(
    tmp_path: Path, user: sqlite3.Connection
) -> None:
    ended = await capture(nobody(), tmp_path, "--snapshot", "--once", "--wait", 0)
    assert ended.code == 3
    assert "cannot reach ws://127.0.0.1" in ended.err
    assert "shop.db goes on noting changes" in ended.err
    async with serving() as server:
        assert (await capture(server.url, tmp_path, "--once")).code == 0
        assert await in_thread(rows) == [("orders", "1"), ("orders", "2")]


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_a_wrong_key_leaves_no_trace_in_a_database_captured_for_the_first_time(
    tmp_path: Path, user: sqlite3.Connection, mode: str
) -> None:
    user.execute(f"PRAGMA journal_mode = {mode}")
    user.execute("VACUUM")
    user.close()
    before = everything(tmp_path)
    async with serving(open=False) as server:
        ended = await capture(server.url, tmp_path, "--token", "hunter2", "--snapshot")
    assert (ended.code, ended.out) == (1, "")
    assert "refused the handshake with HTTP 40" in ended.err
    assert "Nothing was changed in shop.db" in ended.err
    assert "type --token KEY or set EVODB_TOKEN" in ended.err
    assert "hunter2" not in ended.err
    assert everything(tmp_path) == before


async def test_a_key_that_is_refused_later_costs_no_change_and_the_way_out_is_said(
    tmp_path: Path, user: sqlite3.Connection
) -> None:
    async with serving(open=False) as server:
        _, key = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
        assert (await capture(server.url, tmp_path, "--once", token=key)).code == 0
        user.execute("INSERT INTO orders VALUES (3, 'jam')")
        ended = await capture(server.url, tmp_path, "--token", "hunter2", "--json")
        assert ended.code == 3
        error = json.loads(ended.err)
        assert "goes on noting changes, 1 wait in it" in error["error"]
        assert "--token KEY" in error["hint"]
        assert "evodb capture shop.db --detach" in error["hint"]
        assert (await capture(server.url, tmp_path, "--once", token=key)).code == 0
        assert await in_thread(rows) == [("orders", "3")]


async def test_a_wrong_path_is_told_from_a_wrong_key(tmp_path: Path, user: sqlite3.Connection) -> None:
    before = schema(user)
    async with serving() as server:
        ended = await capture(server.url + "s", tmp_path)
        assert ended.code == 1
        assert f"type --parent {server.url}\n" in ended.err
    assert schema(user) == before


# Databases that cannot be captured


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("gone.db --parent ws://x", 2, "there is no file gone.db, wanted the SQLite file"),
        ("folder/gone.db --parent ws://x", 2, "type the path of one, folder/inner.db maybe"),
        ("folder --parent ws://x", 2, "folder is a folder, wanted the SQLite file"),
        ("folder --parent ws://x", 2, "type the path of one, folder/inner.db maybe"),
        ("text.db --parent ws://x", 2, "text.db is not a SQLite database (it begins with 'no databaseno da')"),
        ("pipe --parent ws://x", 2, "pipe is no ordinary file"),
        ("broken.db --parent ws://x", 1, "broken.db: file is not a database"),
        ("outbox.db --parent ws://127.0.0.1:1/ws", 1, "outbox.db is the outbox of a client"),
        ("shop.db --parent ws://127.0.0.1:1/ws --tables nope", 1, "'orders', 'secrets'"),
        ("odd.db --parent ws://127.0.0.1:1/ws", 1, "type --tables A,B to name those to capture"),
        ("shop.db --parent ws://x --tables ,", 2, "type --tables a,b"),
        ("shop.db --detach --once", 2, "without --snapshot and --once"),
        ("shop.db --parent ws://x --force", 2, "goes with --detach"),
        ("shop.db --parent ws://x:99999/ws", 2, "--parent is 'ws://x:99999/ws'"),
    ],
)
def test_what_cannot_be_captured_is_said_and_left_as_it_is(
    tmp_path: Path,
    user: sqlite3.Connection,
    arguments: str,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.db").write_text("no database" * 100)
    (tmp_path / "broken.db").write_bytes((tmp_path / "shop.db").read_bytes()[:16] + b"\xff" * 5000)
    (tmp_path / "folder").mkdir()
    sqlite3.connect(tmp_path / "folder" / "inner.db").execute("CREATE TABLE t (id)")
    os.mkfifo(tmp_path / "pipe")
    with closing(sqlite3.connect(tmp_path / "odd.db")) as odd:
        odd.execute('CREATE TABLE "my orders" (id)')
    Outbox(tmp_path / "outbox.db").close()
    before = everything(tmp_path)
    ended = run(["capture", *arguments.split()], capsys)
    assert (ended.code, ended.out) == (code, ""), ended
    assert said in ended.err
    assert "tables=" not in ended.err
    assert everything(tmp_path) == before


def as_nobody_special() -> None:
    """In a child process: root, too, may only write what is writable for it."""
    capabilities = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        capabilities.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.parametrize("read_only", ["shop.db", "."])
async def test_a_read_only_database_is_said_and_nothing_is_left_beside_it(
    tmp_path: Path, user: sqlite3.Connection, read_only: str
) -> None:
    user.close()
    locked, before = tmp_path / read_only, everything(tmp_path)
    mode = locked.stat().st_mode
    locked.chmod(mode & ~0o222)
    try:
        process = await started(
            "capture", "shop.db", "--parent", nobody(), "--json", cwd=tmp_path, preexec_fn=as_nobody_special
        )
        ended = await end_of(process)
    finally:
        locked.chmod(mode)
    error = json.loads(ended.err)
    assert (ended.code, ended.out) == (1, "")
    assert "is read-only for this user" in error["error"]
    assert error["hint"].startswith("type chmod u+w ")
    assert everything(tmp_path) == before


async def test_a_second_capture_of_a_database_changes_nothing_under_the_first(
    tmp_path: Path, user: sqlite3.Connection
) -> None:
    async with serving() as server:
        first = await started("capture", "shop.db", "--parent", server.url, "--json", cwd=tmp_path)
        await event_of(first, "status", state="connected")
        before = schema(user)
        second = await capture(server.url, tmp_path, "--tables", "secrets")
        assert second.code == 1
        assert "shop.db is being drained by somebody else" in second.err
        detached = await evodb("capture", "shop.db", "--detach", cwd=tmp_path)
        assert detached.code == 1
        assert "end what uses it, then type the same again" in detached.err
        assert schema(user) == before
        first.send_signal(signal.SIGINT)
        assert (await end_of(first)).code == 0


def test_detaching_what_is_not_captured_says_so(
    tmp_path: Path, user: sqlite3.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(tmp_path)
    ended = run(["capture", str(tmp_path / "shop.db"), "--detach"], capsys)
    assert ended.code == 0
    assert "is not captured, nothing was to do" in ended.out
    assert everything(tmp_path) == before


# The screens


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_plain_lines_and_few_of_them() -> None:
    out, now_s = StringIO(), 100.0
    shown = screen.PlainScreen(out, clock=lambda: now_s)
    shown.status("state=connecting", state="connecting")
    shown.event("begin", "begun")
    for done in range(0, 101, 10):
        now_s += 1
        shown.progress("rows", done, 100)
        shown.status(f"pending {done}", state="connected" if done > 20 else "connecting")
    shown.event("end", "done")
    shown.close()
    assert out.getvalue().splitlines() == [
        "begun",
        *("rows: 0 of 100", "pending 0", "pending 30", "rows: 50 of 100", "pending 80", "rows: 100 of 100"),
        "done",
    ]


def test_a_program_hears_of_nothing_twice() -> None:
    out = StringIO()
    shown = screen.of(as_json=True, out=out)
    for done in (1, 1, 2):
        shown.progress("rows", done, None)
        shown.status("whatever", pending=done)
    shown.close()
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"event": "progress", "what": "rows", "done": 1, "total": None},
        {"event": "status", "pending": 1},
        {"event": "progress", "what": "rows", "done": 2, "total": None},
        {"event": "status", "pending": 2},
    ]


def test_the_live_line_says_shortly_why_there_is_no_connection() -> None:
    assert screen.connection(ClientState.CONNECTED, None) == "connected"
    told = screen.connection(ClientState.RECONNECTING, "cannot reach ws://far.example/ws: " + "very " * 50)
    assert told.startswith("not connected (cannot reach ws://far.example/ws: very very")
    assert len(told) < 120


def test_somebody_who_watches_gets_bars_by_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from rpc.commands.rich_screen import RichScreen

    out = Terminal()
    shown = RichScreen(Console(file=out, force_terminal=True, width=80))
    shown.progress("rows", 20, 10)
    shown.status("pending [7]")
    shown.event("end", "done [1]")
    shown.close()
    assert "rows" in out.getvalue()
    assert "pending [7]" in out.getvalue()
    assert "done [1]" in out.getvalue()


def test_without_rich_a_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    watched = screen.of(as_json=False, out=Terminal())
    watched.close()
    assert type(watched).__name__ == "RichScreen"
    monkeypatch.setattr(screen.importlib, "import_module", missing)
    assert isinstance(screen.of(as_json=False, out=Terminal()), screen.PlainScreen)
