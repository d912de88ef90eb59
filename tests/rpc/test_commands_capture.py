from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from lakehouse.models import BatchPayload, Child
from rpc import columns
from rpc.commands import screen
from tests.lakehouse.test_intake import in_thread
from tests.rpc.test_cli import end_of, evodb, run, started
from tests.server import serving

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


async def test_once_sends_the_snapshot_and_ends_and_detach_leaves_nothing(
    tmp_path: Path, user: sqlite3.Connection
) -> None:
    before, files = schema(user), sorted(tmp_path.iterdir())
    async with serving() as server:
        ended = await evodb(
            *("capture", "shop.db", "--parent", server.url, "--tables", "orders", "--snapshot", "--once", "--json"),
            cwd=tmp_path,
        )
        assert ended.code == 0, ended
        assert ended.events[0] == {"event": "attached", "database": "shop.db", "child": "shop", "tables": ["orders"]}
        assert {"event": "progress", "what": "snapshot orders", "done": 2, "total": 2} in ended.events
        assert ended.events[-1] == {"event": "stopped", "acked": 2, "pending": 0}
        assert await in_thread(rows) == [("orders", "1"), ("orders", "2")]
        assert await in_thread(lambda: Child.objects.get().name) == "shop"
    detached = await evodb("capture", "shop.db", "--detach", cwd=tmp_path)
    assert (detached.code, detached.out) == (0, "shop.db is as it was before capture\n")
    assert (schema(user), sorted(tmp_path.iterdir())) == (before, files)


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


async def test_without_a_parent_it_waits_and_an_interrupt_keeps_everything(
    tmp_path: Path, user: sqlite3.Connection
) -> None:
    async with serving() as server:
        await server.stop()
        url = server.url.replace("127.0.0.1", "127.0.0.9")  # where nobody listens
        process = await started("capture", "shop.db", "--parent", url, "--json", cwd=tmp_path)
        await event_of(process, "attached")
        user.execute("INSERT INTO orders VALUES (3, 'jam')")
        await event_of(process, "status", pending=1)
        process.send_signal(signal.SIGINT)
        ended = await end_of(process)
        assert (ended.code, ended.events[-1]) == (0, {"event": "stopped", "acked": 0, "pending": 1})
        refused = await evodb("capture", "shop.db", "--detach", cwd=tmp_path)
        assert refused.code == 1
        assert "1 changes of shop.db have not reached the parent" in refused.err
        assert "--detach --force" in refused.err
        assert (await evodb("capture", "shop.db", "--detach", "--force", cwd=tmp_path)).code == 0
        await server.start()


async def test_a_refused_key_ends_it_with_words(tmp_path: Path, user: sqlite3.Connection) -> None:
    async with serving(open=False) as server:
        ended = await evodb("capture", "shop.db", "--parent", server.url, "--token", "hunter2", cwd=tmp_path)
        assert ended.code == 1
        assert "refused the handshake with HTTP 403" in ended.err
        assert "Traceback" not in ended.err
        assert "hunter2" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("gone.db --parent ws://x", 2, "there is no file gone.db"),
        ("shop.db --parent ws://x --tables nope", 1, "'orders', 'secrets'"),
        ("shop.db --parent ws://x --tables ,", 2, "type --tables a,b"),
        ("shop.db --detach --once", 2, "without --snapshot and --once"),
        ("shop.db --parent ws://x --force", 2, "goes with --detach"),
        ("text.db --parent ws://x", 1, "not a database"),
    ],
)
def test_what_cannot_be_captured_is_said(
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
    ended = run(["capture", *arguments.split()], capsys)
    assert ended.code == code, ended
    assert said in ended.err


# The screens


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_plain_lines_and_few_of_them() -> None:
    out = StringIO()
    shown = screen.of(as_json=False, out=out)
    for done in range(0, 101, 10):
        shown.progress("rows", done, 100)
        shown.status(f"pending {done}")
    shown.event("end", "done")
    shown.close()
    assert out.getvalue().splitlines() == ["rows: 0 of 100", "pending 0", "rows: 100 of 100", "done"]


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
