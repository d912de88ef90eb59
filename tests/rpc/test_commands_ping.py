from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from websockets.asyncio.server import serve

from lakehouse.parent import access
from tests.builders import NOW_MS
from tests.lakehouse.test_intake import in_thread
from tests.rpc.test_cli import end_of, evodb, started
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_parent_answers_both_pings(tmp_path: Path) -> None:
    async with serving() as server:
        ended = await evodb("ping", "--parent", server.url, "--count", 2, "--json", cwd=tmp_path)
        assert [event["event"] for event in ended.events] == ["pong", "pong", "summary"], ended
        assert all(event["ping_ms"] > 0 and event["heartbeat_ms"] > 0 for event in ended.events)
        assert ended.code == 0
        assert list(tmp_path.iterdir()) == []
        plain = await evodb("ping", "--parent", server.url, "--count", 1, cwd=tmp_path)
        assert f"{server.url} answers" in plain.out


async def test_a_refused_key_is_said_and_never_shown(tmp_path: Path) -> None:
    async with serving(open=False) as server:
        ended = await evodb("ping", "--parent", server.url, "--token", "hunter2-secret", cwd=tmp_path)
        assert ended.code == 1
        assert "refused the handshake with HTTP 40" in ended.err
        assert "EVODB_TOKEN" in ended.err
        assert "hunter2" not in ended.out + ended.err


async def test_the_key_may_come_from_the_environment(tmp_path: Path) -> None:
    async with serving(open=False) as server:
        _, key = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
        ended = await evodb("ping", "--parent", server.url, "--count", 1, cwd=tmp_path, token=key + "\n")
        assert ended.code == 0, ended


async def test_nobody_there_is_a_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ended = await evodb("ping", "--parent", f"ws://127.0.0.1:{port}/ws", cwd=tmp_path)
    assert ended.code == 1
    assert "cannot reach" in ended.err


async def test_somebody_else_is_told_from_a_parent(tmp_path: Path) -> None:
    async def echo(connection):
        async for frame in connection:
            await connection.send("pong" if frame == "ping" else frame)
            await connection.send("hello")

    async with serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ended = await evodb("ping", "--parent", f"ws://127.0.0.1:{port}", cwd=tmp_path)
    assert ended.code == 1
    assert "does not speak this protocol" in ended.err


async def test_a_parent_that_never_answers_is_given_up_on_ctrl_c(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = await started("ping", "--parent", f"ws://127.0.0.1:{port}/ws", cwd=tmp_path)
        listener.settimeout(20)
        connection, _ = await in_thread(listener.accept)
        process.send_signal(signal.SIGINT)
        ended = await end_of(process)
        connection.close()
    assert (ended.code, ended.out, ended.err) == (130, "", "")


@pytest.mark.parametrize("path", ["", "/", "/lake"])
async def test_an_address_without_ws_at_its_end_is_told_the_right_one(tmp_path: Path, path: str) -> None:
    async with serving() as server:
        ended = await evodb("ping", "--parent", server.url.removesuffix("/ws") + path, cwd=tmp_path)
        assert ended.code == 1
        assert f"type --parent {server.url}\n" in ended.err


async def test_a_parent_that_is_no_websocket_is_said(tmp_path: Path) -> None:
    def answer(connection, request):
        return connection.respond(503, "busy")

    async with serve(lambda connection: connection.wait_closed(), "127.0.0.1", 0, process_request=answer) as server:
        port = server.sockets[0].getsockname()[1]
        ended = await evodb("ping", "--parent", f"ws://127.0.0.1:{port}/ws", cwd=tmp_path)
    assert ended.code == 1
    assert "answered with HTTP 503, wanted a WebSocket" in ended.err
