"""`evodb` as it is typed: a process of its own, which begins with its libraries loaded (tests.preloaded)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, version
from io import BytesIO, TextIOWrapper
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from rpc import cli
from rpc.outbox import Outbox
from tests import preloaded

WITHIN_S = 40


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


async def started(*arguments: object, cwd: Path, token: str = "", **streams: Any) -> asyncio.subprocess.Process:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("EVODB_", "DJANGO_"))}
    env |= {"PYTHONUNBUFFERED": "1"} | ({"EVODB_TOKEN": token} if token else {})
    argv = [sys.executable, str(Path(sys.executable).with_name("evodb")), *map(str, arguments)]
    pipe = asyncio.subprocess.PIPE
    pipes = {"stdin": asyncio.subprocess.DEVNULL, "stdout": pipe, "stderr": pipe} | streams
    with patch.object(asyncio.unix_events, "subprocess", preloaded.Subprocess()):
        return await asyncio.create_subprocess_exec(*argv, cwd=cwd, env=env, **pipes)


async def evodb(*arguments: object, cwd: Path, stdin: bytes | None = None, token: str = "") -> Ended:
    streams = {} if stdin is None else {"stdin": asyncio.subprocess.PIPE}
    process = await started(*arguments, cwd=cwd, token=token, **streams)
    return await end_of(process, stdin)


async def end_of(process: asyncio.subprocess.Process, stdin: bytes | None = None) -> Ended:
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


def run(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Ended:
    """In this process."""
    code = cli.main(argv)
    return Ended(code, *capsys.readouterr())


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_every_command_is_listed_with_what_it_is_for(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(argv, capsys)
    assert code == 0
    for name in ("capture", "ping", "restore", "send", "tail", "up", "vector", "verify"):
        assert [line for line in out.splitlines() if line.startswith(f"  {name} ") and len(line.split()) > 3]


def test_an_unknown_command_is_wrong_usage_and_what_was_meant_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["sned"], capsys)
    assert code == 2
    assert "no command 'sned'" in err
    assert "did you mean evodb send?" in err


def test_an_unknown_command_is_told_to_a_program_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(["frobnicate", "--json"], capsys)
    assert (code, out) == (2, "")
    error = json.loads(err)
    assert (error["error"], error["code"]) == ("there is no command 'frobnicate'", "USAGE")
    assert "capture, ping, restore, send, tail, up, vector, verify" in error["hint"]


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["--version"], capsys)
    assert (code, out) == (0, f"evodb {version('evodb')}\n")


def test_a_file_whose_name_is_no_text_is_named_and_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / os.fsdecode(b"\xff.db")
    database.touch()
    written = BytesIO()
    out = TextIOWrapper(written, "utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["capture", str(database), "--detach"]) == 0
    out.flush()
    written.seek(0)
    assert b"\\udcff.db is not captured" in written.read()


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a server that answers each request with these bytes, and what it was asked."""
    asked: list[bytes] = []

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(65536))
            self.request.sendall(answer)

    with TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("command", ["restore", "verify"])
def test_a_redirect_takes_the_key_nowhere(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.sqlite3"
    if command == "verify":
        Outbox(path).close()
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as (elsewhere, asked):
        head = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % elsewhere
        with answering(head) as (port, _):
            parent = ["--parent", f"ws://127.0.0.1:{port}/ws", "--token", "secret"]
            code, _, err = run([command, str(path), "--child", "shop", *parent], capsys)
    assert (code, asked) == (1, [])
    assert "answered with HTTP 302" in err


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"SSH-2.0-other\r\n"])
@pytest.mark.parametrize("command", ["restore", "verify"])
def test_an_answer_that_ends_in_the_middle_or_is_no_http_is_said_and_is_no_traceback(
    command: str, answer: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.sqlite3"
    if command == "verify":
        Outbox(path).close()

    with answering(answer) as (port, _):
        code, _, err = run([command, str(path), "--child", "shop", "--parent", f"ws://127.0.0.1:{port}/ws"], capsys)
    assert code == 1
    assert "is no HTTP, or its answer ended in the middle" in err
    assert path.exists() == (command == "verify")


@pytest.mark.parametrize(("value", "extra"), [("lakehouse_gone.up:command", "evodb[server]"), ("rpc.gone:x", "evodb")])
def test_a_command_that_lacks_a_package_says_what_to_install(
    value: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: [EntryPoint("up", value, group)])
    code, _, err = run(["up"], capsys)
    assert code == 2
    assert f"pip install '{extra}'" in err
    assert run([], capsys).code == 0


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: [EntryPoint("x", "tests.rpc.test_cli:interrupted", group)])
    assert run(["x"], capsys) == Ended(130, "", "")


def interrupted(argv: list[str]) -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["capture", "ping", "restore", "send", "tail", "vector", "verify"])
def test_every_command_explains_itself_and_its_exit_codes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"evodb {name} " in out
    assert "--json" in out
    assert "exit codes: 0 done" in out


@pytest.mark.parametrize("name", ["ping", "send --child c --table t", "capture {file}"])
@pytest.mark.parametrize("parent", ["", " --parent localhost:8800"])
def test_a_parent_that_is_no_address_is_wrong_usage(
    name: str, parent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVODB_PARENT", raising=False)
    (tmp_path / "a.db").touch()
    code, out, err = run(f"{name}{parent}".format(file=tmp_path / "a.db").split(), capsys)
    assert (code, out) == (2, "")
    assert "type --parent ws://" in err


@pytest.mark.parametrize(
    ("argv", "code", "hint"),
    [
        (
            ["ping", "--parent", "localhost:8800"],
            2,
            "type --parent ws://localhost:8800/ws (`evodb up` prints the address)",
        ),
        (["ping", "--parent", "https://lake.example/ws"], 2, "type --parent wss://lake.example/ws"),
        (["send", "--parent", "ws://x/ws"], 2, "type evodb send --help"),
        (["capture", "gone.db"], 2, "type the path of one"),
        (["tail", "gone.db"], 2, "type the path of one"),
        (["tail"], 2, "type evodb tail --help"),
        (["vector", "nope"], 2, "type one of batch_min_nocorr"),
        (["ping", "--parent", "ws://127.0.0.1:1/ws"], 1, "`evodb up` starts a parent"),
    ],
)
def test_an_error_for_a_program_is_one_object_on_stderr_with_what_to_type(
    argv: list[str], code: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run([*argv, "--json"], capsys)
    assert (ended.code, ended.out) == (code, "")
    error = json.loads(ended.err)
    assert list(error) == ["error", "hint", "code"]
    assert error["error"]
    assert error["hint"].startswith(hint)
