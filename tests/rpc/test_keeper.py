import asyncio
import contextlib
import dataclasses
import http
import socket

import pytest
from websockets.asyncio.server import serve

from rpc import keeper
from rpc.config import ChildConfig
from rpc.errors import AccessDeniedError, ConnectionError, LakehouseRpcError, ProtocolError
from rpc.keeper import Address, Keeper

CONFIG = ChildConfig(initial_retry_delay_ms=1, max_retry_delay_ms=1, max_reconnect_attempts=1)


class Link:
    """A link that is welcome as soon as it is there and works until the connection ends."""

    def __init__(self, talking, error=None):
        self._socket = talking
        self._error = error
        self.is_welcome = False
        self.woken = 0

    def wake(self):
        self.woken += 1

    async def run(self):
        self.is_welcome = self._error is None
        if self._error is not None:
            raise self._error
        await self._socket.recv()


def new_keeper(url, *, child_id="shop-1", token=None, new_link=Link, **config):
    config = dataclasses.replace(CONFIG, **config)
    return Keeper(Address(url, child_id, token), config, new_link, chance=lambda: 0.0)


@contextlib.asynccontextmanager
async def parent(talk=None, refuse=None):
    """A parent that talks, or refuses the handshake with this status; `heads` are the headers it saw."""
    heads = []

    async def hold(talking):
        await talking.wait_closed()

    def look(connection, request):
        heads.append(request.headers)
        return connection.respond(refuse, "no") if refuse else None

    async with serve(
        talk or hold, "127.0.0.1", 0, process_request=look, ping_interval=None, close_timeout=0.01
    ) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws", heads


async def why(kept):
    """What ended it for good; the time limit ends a test whose keeper never gives up."""
    losses = []
    with pytest.raises(LakehouseRpcError) as caught:
        await asyncio.wait_for(kept.keep(losses.append), 10)
    assert losses[-1] is caught.value
    return caught.value


@pytest.mark.parametrize(
    ("child_id", "token", "headers"),
    [
        ("shop-1", "evodb_key\n", {"X-Client-ID": "shop-1", "Authorization": "Bearer evodb_key"}),
        ("shop-1", " ", {"X-Client-ID": "shop-1"}),
        ("Zürich", None, {}),
        ("shop ", "evodb_key", {"Authorization": "Bearer evodb_key"}),
    ],
)
async def test_the_handshake_tells_who_calls_as_far_as_headers_can(child_id, token, headers):
    async with parent(refuse=http.HTTPStatus.FORBIDDEN) as (url, heads):
        await why(new_keeper(url, child_id=child_id, token=token))
    [seen] = heads
    assert {name: seen[name] for name in ("X-Client-ID", "Authorization") if name in seen} == headers
    assert "Sec-WebSocket-Extensions" not in seen


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (401, AccessDeniedError, "refused the handshake with HTTP 401: the access key is missing, wrong"),
        (403, AccessDeniedError, "refused the handshake with HTTP 403: the access key is missing, wrong"),
        (400, AccessDeniedError, "it cannot store the name of child"),
        (404, ConnectionError, "is it a parent, and its path /ws?"),
        (429, ConnectionError, "takes no more connections at the moment"),
        (503, ConnectionError, "refused the handshake with HTTP 503"),
    ],
)
async def test_a_refused_handshake_is_said_as_what_it_is(status, kind, text):
    async with parent(refuse=status) as (url, _):
        error = await why(new_keeper(url))
    assert type(error) is kind
    assert text in str(error)
    assert f"HTTP {status}" in str(error)


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (1001, ConnectionError, "the connection to ws://127.0.0.1"),
        (1008, AccessDeniedError, "does not let this key write as child 'shop-1'"),
        (1009, ProtocolError, "lower max_batch_bytes of the child or raise EVODB_FRAME_BYTES_MAX"),
    ],
)
async def test_a_connection_the_parent_closes_is_said_as_what_it_means(code, kind, text):
    async with parent(lambda talking: talking.close(code)) as (url, _):
        error = await why(new_keeper(url, auto_reconnect=False))
    assert type(error) is kind
    assert text in str(error)


@pytest.mark.parametrize("url", ["http//nowhere", "ftp://127.0.0.1/ws"])
async def test_an_address_that_is_none_is_not_tried_again(url):
    error = await why(new_keeper(url, max_reconnect_attempts=0))
    assert type(error) is AccessDeniedError
    assert "is no address of a parent, wanted ws://host:port/ws" in str(error)


async def test_what_may_be_a_key_is_in_no_text():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{nobody.getsockname()[1]}/ws?token=evodb_secret"
        kept = new_keeper(url, token="evodb_secret")
        error = await why(kept)
    assert type(error) is ConnectionError
    assert "evodb_secret" not in f"{error!r} {kept.address.shown}"


async def test_a_parent_that_is_not_there_is_tried_as_often_as_told_with_growing_pauses(monkeypatch):
    asked = []
    monkeypatch.setattr(keeper, "delay_ms", lambda attempt, **_: asked.append(attempt) or 0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        kept = new_keeper(f"ws://127.0.0.1:{nobody.getsockname()[1]}/ws", max_reconnect_attempts=4)
        losses = []
        with pytest.raises(ConnectionError, match="cannot reach"):
            await kept.keep(losses.append)
    assert (len(losses), asked, kept.attempts, kept.link) == (4, [1, 2, 3], 4, None)


async def test_a_parent_that_greeted_is_given_all_attempts_anew():
    talks = []

    async def talk(talking):
        talks.append(talking)

    async with parent(talk) as (url, _):
        keeping = asyncio.create_task(new_keeper(url, max_reconnect_attempts=2).keep(lambda _: None))
        while len(talks) < 5 and not keeping.done():
            await asyncio.sleep(0)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    assert (keeping.cancelled(), len(talks) >= 5) == (True, True)


async def test_a_parent_that_never_greets_is_given_up():
    unwelcome = ConnectionError("no greeting")
    async with parent() as (url, heads):
        kept = new_keeper(url, new_link=lambda talking: Link(talking, unwelcome), max_reconnect_attempts=3)
        assert await why(kept) is unwelcome
    assert len(heads) == 3


async def test_what_no_second_try_can_mend_ends_at_once():
    async with parent() as (url, heads):
        broken = ProtocolError("not our parent")
        kept = new_keeper(url, new_link=lambda talking: Link(talking, broken), max_reconnect_attempts=0)
        assert await why(kept) is broken
    assert len(heads) == 1


async def test_only_a_connection_that_is_there_is_woken():
    async with parent() as (url, _):
        kept = new_keeper(url)
        kept.wake()
        keeping = asyncio.create_task(kept.keep(lambda _: None))
        while kept.link is None:
            await asyncio.sleep(0)
        link = kept.link
        kept.wake()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        assert (link.woken, kept.link) == (1, None)


class Deaf:
    """A socket whose other side never answers a goodbye."""

    def __init__(self):
        self.transport = self
        self.aborted = False

    async def close(self):
        await asyncio.Event().wait()

    def abort(self):
        self.aborted = True


async def test_nobody_waits_longer_for_a_goodbye_than_who_disconnects_has_time(monkeypatch):
    deaf = Deaf()

    async def dialled(*_):
        return deaf

    monkeypatch.setattr(keeper, "dial", dialled)
    monkeypatch.setattr(keeper, "CLOSE_S", 3600)
    kept = new_keeper("ws://nowhere/ws", new_link=lambda socket: Link(socket, ConnectionError("over")))
    kept.hang_up_by_s = asyncio.get_running_loop().time()
    assert str(await why(kept)) == "over"
    assert deaf.aborted
