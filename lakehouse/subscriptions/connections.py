"""HTTP/1.1 to receivers, and connections that are kept between messages: a new one costs more than the message.

Kept is what was answered in full and may be used again. Whatever comes while nobody asks, an end or a byte, ends it. A
receiver may close one at the very moment of a message; who asks is told by `Stale`, when not a byte was answered.

Measured (one process, loopback, no TLS): 39 % of what sending a message took was the new connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import h11

ANSWER_BYTES_MAX = 256 * 1024
READ_BYTES = 16 * 1024
USER_AGENT = "EvoDB"
IDLE_S = 15.0
"""Shorter than receivers usually wait for a next request."""
KEPT_MAX = 256
"""Of a process; the one that waits longest makes room."""

Origin = tuple[bool, str, int]
"""Whether it is TLS, the host by name, the port."""
Failure = (OSError, h11.RemoteProtocolError)


class Stale(Exception):
    """A kept connection was closed before it answered anything."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    retry_after: str
    body: bytes


@dataclass(slots=True, eq=False)
class Connection:
    origin: Origin
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    _talk: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.CLIENT, max_incomplete_event_size=READ_BYTES)
    )
    _idle: asyncio.Task[bytes] | None = None
    _answered: bool = False
    kept_s: float = 0.0

    @property
    def address(self) -> str:
        """Which it reached."""
        peer = self._writer.get_extra_info("peername")
        return "" if peer is None else str(peer[0])

    @property
    def is_reusable(self) -> bool:
        """The answer was whole, and nothing came behind it."""
        is_over = self._talk.our_state is h11.DONE and self._talk.their_state is h11.DONE
        return is_over and self._talk.trailing_data == (b"", False) and not self._reader.at_eof()

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
        talk = self._talk
        fixed = [("host", host), ("content-length", str(len(body))), ("user-agent", USER_AGENT)]
        request = h11.Request(method="POST", target=target, headers=[*fixed, *headers])
        for part in (request, h11.Data(data=body), h11.EndOfMessage()):
            self._writer.write(talk.send(part) or b"")
        await self._writer.drain()
        status, retry_after, answered = 0, "", bytearray()
        while True:
            event = talk.next_event()
            if event is h11.NEED_DATA:
                talk.receive_data(await self._reader.read(READ_BYTES))
            elif isinstance(event, h11.Response):
                self._answered = True
                status = event.status_code
                retry_after = next(
                    (text.decode("latin-1") for name, text in event.headers if name == b"retry-after"), ""
                )
            elif isinstance(event, h11.Data):
                answered += event.data
            if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed) or len(answered) > ANSWER_BYTES_MAX:
                return Answer(status, retry_after, bytes(answered[:ANSWER_BYTES_MAX]))

    def rest(self, now_s: float) -> None:
        """Nobody asks for now."""
        self._talk.start_next_cycle()
        self.kept_s = now_s
        self._idle = asyncio.create_task(self._reader.read(1))

    async def wake(self) -> bool:
        """Whether it may be asked again: nothing has come meanwhile."""
        idle, self._idle = self._idle, None
        assert idle is not None
        idle.cancel()
        await asyncio.wait([idle])
        return idle.cancelled()

    def close(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._writer.transport.abort()  # a polite end would wait for somebody who may never come to it


class Kept:
    """Connections at rest, of one event loop."""

    def __init__(self, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._at: dict[Origin, list[Connection]] = {}
        self._count = 0

    async def take(self, origin: Origin) -> Connection | None:
        """The one that came last, or None."""
        while found := self._at.get(origin):
            one = self._drop(origin, found.pop())
            is_awake = False
            try:
                is_awake = self._monotonic_s() - one.kept_s < IDLE_S and await one.wake()
            finally:  # also when there is no time left to ask it
                if not is_awake:
                    one.close()
            if is_awake:
                return one
        return None

    def keep(self, one: Connection) -> None:
        """Or close it, when it cannot be asked again."""
        if not one.is_reusable:
            one.close()
            return
        one.rest(self._monotonic_s())
        self._at.setdefault(one.origin, []).append(one)
        self._count += 1
        self._close_old()

    def close(self) -> None:
        for one in [one for some in self._at.values() for one in some]:
            one.close()
        self._at.clear()
        self._count = 0

    def _close_old(self) -> None:
        """Those at rest for too long, and the oldest of too many. Within an origin the oldest is the first."""
        oldest_s = self._monotonic_s() - IDLE_S
        for origin, some in list(self._at.items()):
            while some and some[0].kept_s < oldest_s:
                self._drop(origin, some.pop(0)).close()
        if self._count > KEPT_MAX:
            origin, some = min(self._at.items(), key=lambda item: item[1][0].kept_s)
            self._drop(origin, some.pop(0)).close()

    def _drop(self, origin: Origin, one: Connection) -> Connection:
        self._count -= 1
        if not self._at[origin]:
            del self._at[origin]
        return one
