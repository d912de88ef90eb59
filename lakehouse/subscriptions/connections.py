"""HTTP/1.1 to receivers, and connections that are kept between messages: a new one costs more than the message.

Kept is what was answered in full and may be used again. Whatever comes while nobody asks, an end or a byte, ends it. A
receiver may close one at the very moment of a message; who asks is told by `Stale`, when not a byte was answered.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import h11

ANSWER_BYTES_MAX = 256 * 1024
READ_BYTES = 16 * 1024
PARTS_MAX = 2048
"""Of an answer, and of what comes before one: each is 10 us, however few bytes it has, and others wait meanwhile."""
USER_AGENT = "EvoDB"
HEADS_MAX = 1000
IDLE_S = 15.0
"""Shorter than receivers usually wait for a next request."""
KEPT_MAX = 512
"""Of a process; the one that waits longest makes room. As many as 64 busy subscriptions have."""

Origin = tuple[bool, str, int]
"""Whether it is TLS, the host by name, the port."""
Failure = (OSError, h11.RemoteProtocolError)


_ASKED = h11.Request(method="POST", target="/", headers=[("host", "-"), ("content-length", "0")])
"""What h11 hears of each request: it reads the answers. That of a target it checks once, and not with each message."""


class Stale(Exception):
    """A kept connection was closed before it answered anything."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    retry_after: str
    body: bytes


class Connection(asyncio.Protocol):
    """What is heard on it goes straight to who asked: streams would be two tasks more for each message."""

    def __init__(self, origin: Origin) -> None:
        self.origin, self.address, self.kept_s = origin, "", 0.0
        self._talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=READ_BYTES)
        self._transport: asyncio.Transport | None = None
        self._unasked = select.poll()
        self._heard: asyncio.Future[Answer] | None = None
        """Of who waits for an answer."""
        self._status, self._retry_after, self._body, self._parts = 0, "", bytearray(), 0
        self._answered = self._is_over = False

    @property
    def is_reusable(self) -> bool:
        """The answer was whole, nothing came behind it, and all of what was asked is gone."""
        is_done = self._talk.our_state is h11.DONE and self._talk.their_state is h11.DONE
        is_quiet = self._talk.trailing_data == (b"", False) and not self._is_over
        return is_done and is_quiet and self._transport is not None and not self._transport.get_write_buffer_size()

    @property
    def is_quiet(self) -> bool:
        """Whether it may be asked again: nothing has come meanwhile, not even what nobody has read yet."""
        return not self._is_over and not self._unasked.poll(0)

    async def post(self, host: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> Answer:
        """Raises Stale, OSError or h11.ProtocolError."""
        is_first, self._answered = not self._answered, False
        try:
            return await self._exchange(host, target, headers, body)
        except Failure as exc:
            if is_first or self._answered:
                raise
            raise Stale from exc

    async def _exchange(self, host: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> Answer:
        if self._is_over or self._transport is None:
            raise ConnectionResetError("the connection was closed")
        request = b"%b%b\r\n%b" % (_head(host, target), _lines([("content-length", str(len(body))), *headers]), body)
        self._talk.send(_ASKED)
        self._talk.send(h11.EndOfMessage())
        self._status, self._retry_after, self._body, self._parts = 0, "", bytearray(), 0
        self._heard = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._heard

    def rest(self, now_s: float) -> None:
        """Nobody asks for now."""
        self._talk.start_next_cycle()
        self.kept_s = now_s

    def close(self) -> None:
        self._is_over = True
        if self._transport is not None:
            self._transport.abort()  # a polite end would wait for somebody who may never come to it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = "" if peer is None else str(peer[0])
        self._unasked.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        self._hear(data)

    def eof_received(self) -> None:
        self._hear(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._heard is not None and not self._heard.done():
            self._heard.set_exception(exc)
        self._hear(b"")

    def _hear(self, data: bytes) -> None:
        """Nothing is the end of it, and whatever nobody asked for ends it, too."""
        if self._heard is None or self._heard.done():
            self.close()
            return
        self._is_over = self._is_over or not data
        self._answered = self._answered or bool(data)
        try:
            self._talk.receive_data(data)
            answer = self._read()
        except h11.RemoteProtocolError as exc:
            self._heard.set_exception(exc)
        else:
            if answer is not None:
                self._heard.set_result(answer)

    def _read(self) -> Answer | None:
        """The answer, when all of it is there, or too much."""
        while (event := self._talk.next_event()) is not h11.NEED_DATA:
            self._parts += 1
            if isinstance(event, h11.Response):
                self._status = event.status_code
                waits = (text.decode("latin-1") for name, text in event.headers if name == b"retry-after")
                self._retry_after = next(waits, "")
            elif isinstance(event, h11.Data):
                self._body += event.data
            if self._parts > PARTS_MAX and not self._status:
                raise h11.RemoteProtocolError(f"{PARTS_MAX} times it said that it will answer, and it did not")
            is_enough = len(self._body) > ANSWER_BYTES_MAX or self._parts > PARTS_MAX
            if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed) or is_enough:
                return Answer(self._status, self._retry_after, bytes(self._body[:ANSWER_BYTES_MAX]))
        return None


@lru_cache(HEADS_MAX)
def _head(host: str, target: str) -> bytes:
    """How each request to a target begins. Raises h11.LocalProtocolError where that is no HTTP."""
    request = h11.Request(method="POST", target=target, headers=[("host", host), ("user-agent", USER_AGENT)])
    head = h11.Connection(h11.CLIENT).send(request) or b""
    return head.removesuffix(b"\r\n")


def _lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Raises h11.LocalProtocolError for what would end its line."""
    lines = [f"{name}: {value}" for name, value in headers]
    if any("\r" in line or "\n" in line for line in lines):
        raise h11.LocalProtocolError("a header has several lines")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


class Kept:
    """Connections at rest, of one event loop."""

    def __init__(self, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._at: dict[Origin, dict[Connection, None]] = {}
        self._all: dict[Connection, None] = {}
        """The longest at rest first, as among those of an origin."""

    def take(self, origin: Origin) -> Connection | None:
        """The one that came last, or None."""
        while found := self._at.get(origin):
            one = next(reversed(found))
            self._drop(one)
            if self._monotonic_s() - one.kept_s < IDLE_S and one.is_quiet:
                return one
            one.close()
        return None

    def keep(self, one: Connection) -> None:
        """Or close it, when it cannot be asked again."""
        if not one.is_reusable:
            one.close()
            return
        now_s = self._monotonic_s()
        one.rest(now_s)
        self._at.setdefault(one.origin, {})[one] = self._all[one] = None
        while (oldest := next(iter(self._all))).kept_s < now_s - IDLE_S or len(self._all) > KEPT_MAX:
            self._drop(oldest)
            oldest.close()

    def close(self) -> None:
        for one in list(self._all):
            self._drop(one)
            one.close()

    def _drop(self, one: Connection) -> None:
        del self._all[one]
        del self._at[one.origin][one]
        if not self._at[one.origin]:
            del self._at[one.origin]
