"""What the library says in Python, the commands say in words of a shell."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rpc.capture.sqlite import SqliteCapture
from rpc.commands import notices, words
from rpc.errors import (
    AccessDeniedError,
    BufferOverflowError,
    CaptureError,
    ConnectionError,
    LakehouseRpcError,
    OutboxCorruptError,
)
from rpc.outbox import Outbox
from rpc.outcome import ClientState

PYTHON = re.compile(r"\w+\(|\b[a-z_]+=|\bNone\b|\bTrue\b")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as user:
        user.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    return path


def detached_while_changes_wait(path: Path) -> None:
    with SqliteCapture(path) as capture, closing(sqlite3.connect(path, isolation_level=None)) as user:
        capture.attach()
        user.execute("INSERT INTO orders VALUES (1)")
        capture.detach()


def captured_with_a_table_that_cannot_be_named(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as user:
        user.execute('CREATE TABLE "my orders" (id)')
    with SqliteCapture(path) as capture:
        capture.attach()


def captured_with_triggers_that_do_not_compile(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as user:
        user.execute("CREATE TRIGGER t AFTER INSERT ON orders BEGIN SELECT gone FROM nowhere; END")
    with SqliteCapture(path) as capture:
        capture.attach()


def opened_as_an_outbox(path: Path) -> None:
    Outbox(path)


def captured_by_two(path: Path) -> None:
    with SqliteCapture(path) as one, SqliteCapture(path) as other:
        one.claim()
        other.claim()


@pytest.mark.parametrize(
    ("mistake", "typed"),
    [
        (detached_while_changes_wait, "--detach --force"),
        (captured_with_a_table_that_cannot_be_named, "--tables A,B"),
        (captured_with_triggers_that_do_not_compile, "--tables A,B"),
        (opened_as_an_outbox, "--outbox FILE"),
        (captured_by_two, "stop that one first"),
    ],
)
def test_what_the_library_says_in_python_is_said_in_words_of_a_shell(
    path: Path, mistake: Callable[[Path], None], typed: str
) -> None:
    with pytest.raises(LakehouseRpcError) as raised:
        mistake(path)
    complaint = words.of(raised.value)
    assert typed in complaint.hint
    assert not PYTHON.search(f"{complaint.error} {complaint.hint}"), complaint


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (AccessDeniedError("no key; pass token=..."), "no key", words.KEY_HINT),
        (AccessDeniedError("no key: pass token=... to let it in"), None, words.KEY_HINT),
        (ConnectionError("cannot reach ws://x"), "cannot reach ws://x", words.PARENT_HINT),
        (ConnectionError("x: [Errno 111] Connect call failed ('127.0.0.1', 1)"), "x: connection refused", None),
        (
            ConnectionError("x: Multiple exceptions: [Errno 113] a ('::1', 1), [Errno 113] b ('1.1', 1)"),
            "x: no route to host",
            None,
        ),
        (ConnectionError("x: [Errno -2] Name or service not known"), "x: Name or service not known", None),
        (BufferOverflowError("it is full; raise bytes_max=2"), "it is full", "let the parent take what waits"),
        (OutboxCorruptError("it is broken; move it away, or open it with fix=True"), "it is broken", "move it away"),
        (CaptureError("x is not captured; call attach() first"), "x is not captured", ""),
        (CaptureError("nothing to do about it"), "nothing to do about it", ""),
        (FileNotFoundError(2, "No such file or directory", "a.db"), "a.db: no such file or directory", ""),
        (PermissionError(13, "Permission denied", "a.db"), "a.db: permission denied", "let this user read it"),
    ],
)
def test_an_error_is_what_was_found_and_what_to_type(error: Exception, said: str | None, hint: str | None) -> None:
    complaint = words.of(error)
    assert said in (None, complaint.error)
    assert hint is None or (complaint.hint.startswith(hint) and bool(hint) == bool(complaint.hint))
    assert not PYTHON.search(f"{complaint.error} {complaint.hint}"), complaint


def test_a_lost_connection_is_said_once_and_why_is_known_until_there_is_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("rpc.client")
    away, refused = ConnectionError("cannot reach ws://x"), AccessDeniedError("no key; make one")
    with notices.heard("evodb capture", as_json=False) as heard:
        assert heard.why(ClientState.CONNECTING) is None
        for _ in range(2):
            log.warning("child %r: %s; trying again", "till", away)
        assert heard.why(ClientState.RECONNECTING) == "cannot reach ws://x"
        assert heard.why(ClientState.CONNECTED) is None
        assert heard.why(ClientState.RECONNECTING) is None
        log.warning("child %r: %s; trying again", "till", away)
        log.error("child %r is not connected any more: %s", "till", refused)  # whoever is told of the end says that
        log.warning("%s: something else", "app.db")
        assert heard.why(ClientState.FAILED) == "no key"
    assert capsys.readouterr().err.splitlines() == [
        "evodb capture: cannot reach ws://x; trying again",
        "evodb capture: cannot reach ws://x; trying again",
        "evodb capture: app.db: something else",
    ]
