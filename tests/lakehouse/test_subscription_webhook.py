"""One POST to a stranger: to the address that was checked and no other, within one deadline, whatever comes back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest

from lakehouse.subscriptions import connections, guard, names, webhook
from lakehouse.subscriptions.names import OF_A_TENANT_MAX
from lakehouse.subscriptions.retries import Outcome
from tests.builders import NOW_MS
from tests.lakehouse.subscription_site import LOOPBACK, Receiver, receiver

ALLOWED = guard.networks([LOOPBACK])


@pytest.fixture
async def hook() -> AsyncIterator[Receiver]:
    async with receiver() as one:
        yield one


class Names:
    """A name server that says something else each time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.asked = list(answers), 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0)


async def post(url: str, networks: Any = ALLOWED, **more: Any) -> tuple[Outcome, bytes]:
    terms = {"timeout_ms": 5000, "now_ms": NOW_MS} | more
    return await webhook.post(url, [("x-one", "1")], b"{}", networks=networks, **terms)


async def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(hook: Receiver) -> None:
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    outcome, _ = await post(f"http://changing.example:{hook.port}/x?y=1", resolve=names)
    assert (outcome.ok, names.asked) == (True, 1)
    assert (hook.heard[0].path, hook.heard[0].headers["host"]) == ("/x?y=1", f"changing.example:{hook.port}")


async def test_a_tenant_whose_names_nobody_answers_for_keeps_no_other_one_waiting(hook: Receiver) -> None:
    silent, answer = asyncio.Event(), asyncio.Event()
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        if len(asked) == OF_A_TENANT_MAX:
            silent.set()
        if host.endswith(".silent.example"):
            await answer.wait()
            raise OSError("nobody knows it")
        return ["127.0.0.1"]

    known = names.Names(resolve)

    def send(tenant: int, host: str) -> asyncio.Task[tuple[Outcome, bytes]]:
        return asyncio.create_task(post(f"http://{host}:{hook.port}/", resolve=partial(known.resolve, tenant)))

    sent = [send(1, f"{number}.silent.example") for number in range(3 * OF_A_TENANT_MAX)]
    async with asyncio.timeout(20):
        await silent.wait()
        for one in sent[:OF_A_TENANT_MAX]:
            one.cancel()  # who asked has gone, and the thread that asks has not
        outcome, _ = await send(2, "quick.example")
        assert outcome.ok
        assert len(asked) == OF_A_TENANT_MAX + 1
        answer.set()
        left = await asyncio.gather(*sent[OF_A_TENANT_MAX:])
    assert {outcome.error for outcome, _ in left} == {"OSError: nobody knows it"}


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["169.254.169.254"], ["fe80::1%lo"]]
)
async def test_one_address_that_is_not_public_is_enough_not_to_go_there(hook: Receiver, addresses: list[str]) -> None:
    outcome, _ = await post(f"http://mixed.example:{hook.port}/", networks=(), resolve=Names(addresses))
    assert "where no webhook may go" in outcome.error
    assert hook.heard == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_other_spellings_of_this_machine_lead_nowhere(hook: Receiver, host: str) -> None:
    outcome, _ = await post(f"http://{host}:{hook.port}/", networks=())
    assert not outcome.ok
    assert hook.heard == []


async def test_what_would_be_a_header_of_its_own_is_not_sent(hook: Receiver) -> None:
    outcome, _ = await webhook.post(
        hook.url(), [("x-one", "1\r\nx-two: 2")], b"{}", networks=ALLOWED, timeout_ms=5000, now_ms=NOW_MS
    )
    assert "a header has several lines" in outcome.error
    outcome, _ = await post(hook.url("/a b"))
    assert "LocalProtocolError" in outcome.error
    assert hook.heard == []


async def test_a_redirect_is_a_failure_and_nobody_follows_it(hook: Receiver) -> None:
    hook.answers = [(307, b"", {"location": hook.url("/inside")})]
    outcome, _ = await post(hook.url())
    assert (outcome.ok, outcome.status, len(hook.heard)) == (False, 307, 1)


async def test_the_first_address_that_answers_is_taken(hook: Receiver) -> None:
    outcome, _ = await post(f"http://two.example:{hook.port}/", resolve=Names(["127.0.0.99", "127.0.0.1"]))
    assert outcome.ok


async def test_a_name_that_nobody_knows_is_named_and_not_only_its_error() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    outcome, _ = await post("http://no-such-host.example/hook", resolve=unknown)
    assert outcome.error == "the name no-such-host.example was not found: Name or service not known"


async def test_nobody_and_a_name_that_is_none_are_told_as_errors() -> None:
    outcome, _ = await post("http://nobody.example/", resolve=Names([]))
    assert "has no address" in outcome.error
    outcome, _ = await post("http://127.0.0.1:1/")
    assert "ConnectionRefusedError" in outcome.error


async def test_who_dribbles_an_answer_has_one_deadline_for_all_of_it() -> None:
    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not reader.at_eof() and not writer.is_closing():
            writer.write(b"x: y\r\n")
            await asyncio.wait([asyncio.ensure_future(reader.read(1000))], timeout=0.005)
        writer.close()

    server = await asyncio.start_server(dribble, "127.0.0.1", 0)
    outcome, _ = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout_ms=150)
    assert not outcome.ok
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", "RemoteProtocolError"),
        (b"hello\r\n\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", "RemoteProtocolError"),
        (b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\n\r\nbusy", "answered 503: busy"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000, ""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", ""),
    ],
)
async def test_whatever_comes_back_is_an_outcome(said: bytes, error: str) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(said)
        with contextlib.suppress(ConnectionError):  # it has had enough
            writer.write_eof()
            await reader.read()
        writer.close()
        closed.set()

    closed = asyncio.Event()
    server = await asyncio.start_server(say, "127.0.0.1", 0)
    outcome, answer = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    await asyncio.wait_for(closed.wait(), 5)
    server.close()
    assert (outcome.ok, error in outcome.error) == (not error, True), outcome
    assert len(answer) <= connections.ANSWER_BYTES_MAX
    assert outcome.retry_after_ms == (7000 if b"retry-after" in said else None)


async def test_a_certificate_of_somebody_else_is_refused(hook: Receiver) -> None:
    outcome, _ = await post(f"https://127.0.0.1:{hook.port}/")
    assert not outcome.ok
    assert hook.heard == []
