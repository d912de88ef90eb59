"""Connections that are kept between messages are used again while nothing came, and mix up or lose no message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from lakehouse.subscriptions import guard, webhook
from lakehouse.subscriptions.connections import IDLE_S, KEPT_MAX, PARTS_MAX, Kept
from lakehouse.subscriptions.retries import Outcome
from tests.builders import NOW_MS
from tests.lakehouse.subscription_site import LOOPBACK

ALLOWED = guard.networks([LOOPBACK])
BUSY = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No\r\n\r\n"


@dataclass
class Server:
    """Answers each request with what `answers` has, then with 204, and notes on which connection it came."""

    port: int = 0
    heard: list[tuple[int, bytes]] = field(default_factory=list)
    answers: list[bytes | None] = field(default_factory=list)
    """None: it closes the connection instead."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.writers)
        self.writers.append(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.heard.append((number, await reader.readexactly(length)))
                answer = self.answers.pop(0) if self.answers else NO_CONTENT
                if answer is None:
                    break
                writer.write(answer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.gone.append(number)
            self.changed.set()


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listening.close()
        for writer in made.writers:
            writer.close()


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def kept(clock: Clock) -> AsyncIterator[Kept]:
    made = Kept(monotonic_s=clock)
    yield made
    made.close()


async def post(one: Server, kept: Kept, body: bytes, networks: object = ALLOWED) -> Outcome:
    url = f"http://127.0.0.1:{one.port}/"
    outcome, _ = await webhook.post(url, [], body, networks=networks, timeout_ms=5000, now_ms=NOW_MS, kept=kept)  # type: ignore[arg-type]
    return outcome


async def test_messages_one_after_the_other_go_over_one_connection(kept: Kept) -> None:
    async with server() as one:
        one.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", BUSY]
        outcomes = [await post(one, kept, body) for body in (b"a", b"b", b"c")]
        assert [outcome.status for outcome in outcomes] == [200, 503, 204]
        assert one.heard == [(0, b"a"), (0, b"b"), (0, b"c")]


async def test_messages_at_once_have_a_connection_each_and_all_are_kept(kept: Kept) -> None:
    async with server() as one:
        await asyncio.gather(*(post(one, kept, b"%d" % n) for n in range(3)))
        await asyncio.gather(*(post(one, kept, b"%d" % n) for n in range(3)))
        assert len(one.writers) == 3
        assert len(one.heard) == 6


@pytest.mark.parametrize("said", [b"HTTP/1.1 204 No\r\nconnection: close\r\n\r\n", b"HTTP/1.0 204 No\r\n\r\n"])
async def test_a_receiver_that_wants_a_new_one_each_time_has_it(kept: Kept, said: bytes) -> None:
    async with server() as one:
        one.answers = [said]
        assert [(await post(one, kept, b"a")).ok, (await post(one, kept, b"b")).ok] == [True, True]
        assert one.heard == [(0, b"a"), (1, b"b")]


async def test_one_that_closes_instead_of_answering_is_asked_once_more_anew(kept: Kept) -> None:
    async with server() as one:
        one.answers = [NO_CONTENT, None]
        assert (await post(one, kept, b"a")).ok
        assert (await post(one, kept, b"b")).ok
        assert one.heard == [(0, b"a"), (0, b"b"), (1, b"b")]


async def test_one_that_closes_a_new_connection_instead_of_answering_has_failed(kept: Kept) -> None:
    async with server() as one:
        one.answers = [NO_CONTENT, None, None]
        assert (await post(one, kept, b"a")).ok
        assert "RemoteProtocolError" in (await post(one, kept, b"b")).error
        assert len(one.heard) == 3


async def test_one_that_was_closed_meanwhile_is_not_used(kept: Kept) -> None:
    async with server() as one:
        await post(one, kept, b"a")
        one.writers[0].close()
        await one.writers[0].wait_closed()
        assert (await post(one, kept, b"b")).ok
        assert one.heard == [(0, b"a"), (1, b"b")]


async def test_an_answer_nobody_asked_for_is_nobodys_answer(kept: Kept) -> None:
    async with server() as one:
        one.answers = [NO_CONTENT + b"HTTP/1.1 200 Forged\r\ncontent-length: 0\r\n\r\n"]
        assert (await post(one, kept, b"a")).status == 204
        assert (await post(one, kept, b"b")).status == 204
        assert one.heard[-1] == (1, b"b")


async def test_an_answer_that_breaks_off_ends_the_connection_and_is_no_reason_to_ask_again(kept: Kept) -> None:
    async with server() as one:
        one.answers = [NO_CONTENT, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", None]
        await post(one, kept, b"a")
        task = asyncio.create_task(post(one, kept, b"b"))
        while len(one.heard) < 2:
            await asyncio.sleep(0)
        one.writers[0].close()
        assert not (await task).ok
        assert one.heard == [(0, b"a"), (0, b"b")]


async def test_what_is_not_allowed_any_more_is_not_reached_over_a_kept_one(kept: Kept) -> None:
    async with server() as one:
        await post(one, kept, b"a")
        assert "where no webhook may go" in (await post(one, kept, b"b", networks=())).error
        assert one.heard == [(0, b"a")]


async def test_those_at_rest_for_long_are_closed(kept: Kept, clock: Clock) -> None:
    async with server() as one:
        await post(one, kept, b"a")
        clock.now_s = IDLE_S + 1
        await post(one, kept, b"b")
        assert one.heard == [(0, b"a"), (1, b"b")]
        await one.changed.wait()
        assert one.gone == [0]


async def test_of_too_many_the_oldest_makes_room(kept: Kept, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT_MAX > 1
    monkeypatch.setattr("lakehouse.subscriptions.connections.KEPT_MAX", 1)
    async with server() as first, server() as second:
        await post(first, kept, b"a")
        clock.now_s = 1
        await post(second, kept, b"b")
        await first.changed.wait()
        await post(second, kept, b"c")
        assert second.heard == [(0, b"b"), (0, b"c")]


async def test_one_whose_message_ran_out_of_time_is_closed_and_not_asked_again(kept: Kept) -> None:
    async with server() as one:
        one.answers = [NO_CONTENT, b""]
        assert (await post(one, kept, b"a")).ok
        asking = asyncio.create_task(post(one, kept, b"b"))
        while len(one.heard) < 2:
            await asyncio.sleep(0)
        asking.cancel()
        async with asyncio.timeout(20):
            await one.changed.wait()
        assert one.gone == [0]
        assert (await post(one, kept, b"c")).ok
        assert one.heard == [(0, b"a"), (0, b"b"), (1, b"c")]


async def test_what_came_while_nobody_asked_ends_a_connection_also_when_nobody_has_read_it_yet(kept: Kept) -> None:
    async with server() as one:
        assert (await post(one, kept, b"a")).status == 204
        one.writers[0].write(b"HTTP/1.1 408 Too late\r\ncontent-length: 0\r\n\r\n")
        assert (await post(one, kept, b"b")).status == 204
        assert one.heard == [(0, b"a"), (1, b"b")]


async def test_an_answer_before_all_of_the_message_was_read_is_no_end_of_it(kept: Kept) -> None:
    """The rest of the message is still on its way, so nobody else may write behind it."""

    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append((await reader.readuntil(b"\r\n\r\n"), writer))
        writer.write(BUSY)

    heard: list[tuple[bytes, asyncio.StreamWriter]] = []
    listening = await asyncio.start_server(answer_early, "127.0.0.1", 0, limit=1000)
    one = Server(port=listening.sockets[0].getsockname()[1])
    assert [(await post(one, kept, bytes(8_000_000))).status for _ in range(2)] == [503, 503]
    assert len(heard) == 2
    listening.close()
    for _, writer in heard:
        writer.transport.abort()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])


async def test_who_says_again_and_again_that_it_will_answer_is_not_listened_to_for_long(kept: Kept) -> None:
    """Reading it takes the time of everybody else's messages."""
    async with server() as one:
        one.answers = [
            b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + NO_CONTENT,
            b"HTTP/1.1 103 Wait\r\n\r\n" * (PARTS_MAX + 1),
        ]
        assert (await post(one, kept, b"a")).status == 204
        failed = await post(one, kept, b"b")
        assert not failed.ok
        assert f"{PARTS_MAX} times" in failed.error
        assert [number for number, _ in one.heard] == [0, 0]


async def test_of_an_answer_in_crumbs_the_beginning_is_enough(kept: Kept) -> None:
    async with server() as one:
        chunks = b"1\r\nx\r\n" * (PARTS_MAX + 1)
        one.answers = [b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n" + chunks]
        assert (await post(one, kept, b"a")).status == 503
        assert (await post(one, kept, b"b")).status == 204
        assert [number for number, _ in one.heard] == [0, 1]
