"""What a child sees of a handshake, and others of their requests, through the two servers that may stand before us."""

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.lakehouse.limits_site import FLOOD_CHUNK, FLOOD_CHUNKS
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


@asynccontextmanager
async def over_http(server, head, body=b""):
    """A request on a connection of its own, as soon as the server listens; what is read is the body."""
    url, process, log = server
    port = int(url.rpartition(":")[2])
    async with asyncio.timeout(60):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.05)
        writer.write(f"{head}\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode() + body)
        assert b" 200 " in (await reader.readuntil(b"\r\n"))
        await reader.readuntil(b"\r\n\r\n")
        yield reader
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x", "text/plain"])
async def test_what_a_page_sends_is_read_as_it_came_whatever_it_calls_it(server, kind):
    head = f"POST /echo HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: 13"
    async with over_http(server, head, b'{"events":[]}') as reader:
        assert b'{"events":[]}' in await reader.read()


async def test_a_form_of_millions_of_fields_is_bytes_as_any_other_body_and_keeps_nobody_waiting(server):
    pairs = b"a&" * 4 * 1024 * 1024
    head = f"POST /echo HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(pairs)}"
    before = peak_kib(server)
    async with over_http(server, head, pairs) as reader:
        assert (await reader.read()).count(b"a&") >= 4 * 1024 * 1024 - 100
    assert peak_kib(server) - before < 60 * 1024, "8 MiB now and then, and no list of 4 million pairs"


def peak_kib(server):
    """The most memory the server ever had."""
    status = Path(f"/proc/{server[1].pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


async def test_what_a_reader_does_not_read_waits_where_it_is_and_fills_no_memory(server):
    async with over_http(server, "GET /flood HTTP/1.1") as reader:
        before = -1
        while (now := await chunks_told(server)) != before or not now:
            before = now
        assert now < FLOOD_CHUNKS
        assert (await reader.read()).count(b"x") == len(FLOOD_CHUNK) * FLOOD_CHUNKS
    assert await chunks_told(server) == FLOOD_CHUNKS


async def chunks_told(server):
    async with over_http(server, "GET /told HTTP/1.1") as reader:
        said = await reader.read()
    return int(said.split()[1] if b"\r\n" in said else said)  # a chunk says its length first
