import asyncio
import contextlib
import http
import sys

import pytest
from websockets.asyncio.server import serve
from websockets.exceptions import InvalidStatus

from rpc.address import Address
from rpc.config import ChildConfig
from rpc.dialling import dial
from rpc.errors import AccessDeniedError, ConnectionError
from rpc.unreached import reason

CONFIG = ChildConfig()
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "socks_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextlib.asynccontextmanager
async def listening(answer=None):
    """Somebody who takes sockets; `heads` are the headers it saw."""
    heads = []

    def look(connection, request):
        heads.append(request.headers)
        return answer and answer(connection)

    async with serve(
        lambda socket: socket.wait_closed(), "127.0.0.1", 0, process_request=look, close_timeout=0.01
    ) as server:
        yield server.sockets[0].getsockname()[1], heads


async def test_a_redirect_is_not_followed_and_takes_the_key_nowhere():
    async with listening() as (port, heads):

        def elsewhere(connection):
            answer = connection.respond(http.HTTPStatus.TEMPORARY_REDIRECT, "")
            answer.headers["Location"] = f"ws://127.0.0.1:{port}/ws"
            return answer

        async with listening(elsewhere) as (first, _):
            with pytest.raises(InvalidStatus) as refused:
                await dial(Address(f"ws://127.0.0.1:{first}/ws", "shop-1", "evodb_key"), CONFIG)
    assert heads == []
    assert f"sends on to 'ws://127.0.0.1:{port}/ws'" in str(reason(refused.value, Address("ws://a", "b", None), CONFIG))


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:99999/ws", "ws://127.0.0.1:port/ws", "ws://[::1/ws", f"ws://{'x' * 70}.invalid/ws"]
)
async def test_an_address_python_stumbles_over_is_none(url):
    with pytest.raises(AccessDeniedError, match=r"is no address of a parent .*, wanted ws://host:port/ws"):
        await dial(Address(url, "shop-1", None), CONFIG)


async def test_a_proxy_of_the_environment_is_asked_and_no_proxy_is_heard(monkeypatch):
    asked = []

    async def proxy(reader, writer):
        asked.append((await reader.readuntil(b"\r\n")).decode().strip())
        writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as at, listening() as (port, _):
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{at.sockets[0].getsockname()[1]}")
        address = Address(f"ws://127.0.0.1:{port}/ws", "shop-1", None)
        with pytest.raises(Exception, match="proxy rejected connection: HTTP 403") as refused:
            await dial(address, CONFIG)
        assert type(reason(refused.value, address, CONFIG)) is ConnectionError
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with await dial(address, CONFIG):
            assert asked == [f"CONNECT 127.0.0.1:{port} HTTP/1.1"]


async def test_a_socks_proxy_without_its_library_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "python_socks", None)
    monkeypatch.setitem(sys.modules, "python_socks.async_.asyncio", None)
    monkeypatch.setenv("socks_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"pip install 'python-socks\[asyncio\]', or name its host in NO_PROXY"):
        await dial(Address("ws://127.0.0.1:9/ws", "shop-1", None), CONFIG)
