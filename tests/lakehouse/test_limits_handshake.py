"""What a child sees of a handshake, through the two servers that may stand before us."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.services import free_port

ROOT = Path(__file__).resolve().parents[2]
SITE = "tests.lakehouse.limits_site:application"
SERVERS = {
    "daphne": ["-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", "{port}", SITE],
    "uvicorn": ["-m", "uvicorn", "--lifespan", "off", "--log-level", "error", "--port", "{port}", SITE],
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    port = free_port()
    command = [sys.executable, *(word.format(port=port) for word in SERVERS[request.param])]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as process:
        try:
            yield f"ws://127.0.0.1:{port}", process, log
        finally:
            process.terminate()


async def open_socket(server, path):
    """As soon as the server listens."""
    url, process, log = server
    async with asyncio.timeout(30):
        while True:
            try:
                return await connect(url + path, compression=None)
            except OSError:
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.05)


async def refused(server, path):
    with pytest.raises(InvalidStatus) as caught:
        await open_socket(server, path)
    return caught.value.response


async def test_a_refused_handshake_is_a_429_that_says_why_and_when_to_come_back(server):
    found = await refused(server, "/no")
    assert found.status_code == 429
    assert {name.lower(): value for name, value in found.headers.raw_items()} | {"date": "", "server": ""} == {
        "x-ratelimit-limit": "100",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "1700000001",
        "retry-after": "1",
        "content-type": "application/json",
        "content-length": str(len(found.body)),
        "connection": "close",
        "date": "",
        "server": "",
    }
    assert json.loads(found.body) == {
        "error": "Too Many Requests",
        "reason": "ip_limit",
        "retryAfter": 1,
        "clientIp": "203.0.113.xxx",
    }


async def test_an_accepted_handshake_carries_the_headers_and_the_socket_works(server):
    socket = await open_socket(server, "/")
    headers = socket.response.headers
    assert [headers[f"X-RateLimit-{name}"] for name in ("Limit", "Remaining", "Reset")] == ["100", "7", "1700000001"]
    assert await socket.recv() == "hello"
    await socket.close()


async def test_a_handshake_that_is_only_closed_is_still_a_403(server):
    assert (await refused(server, "/forbidden")).status_code == 403


async def test_a_hundred_refusals_later_the_server_lets_others_in_and_has_not_complained(server):
    for _ in range(100):
        await refused(server, "/no")
    socket = await open_socket(server, "/")
    assert await socket.recv() == "hello"
    await socket.close()
    assert "Traceback" not in server[2].read_text()
