"""Replies on their way to one child: in order, and never more of them than the child reads.

An ASGI server may take replies without end while the child does not read; daphne does. Where the socket is Twisted's,
we stop reading from a child that does not read from us, so that TCP itself holds it back. Elsewhere `send` waits, and a
child that makes more than `BYTES_MAX` of replies wait is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]
BYTES_MAX = 4 * 1024 * 1024


class Outflow:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._frames: list[str | bytes] = []
        self._size_bytes = 0
        self._sender: asyncio.Task[None] | None = None

    @property
    def is_empty(self) -> bool:
        return not self._frames and (self._sender is None or self._sender.done())

    @property
    def is_overfull(self) -> bool:
        return self._size_bytes > BYTES_MAX

    def put(self, frame: str | bytes) -> None:
        """Send this after everything put before. One task sends what a whole group brought."""
        self._frames.append(frame)
        self._size_bytes += len(frame)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._run())

    async def drained(self) -> None:
        if self._sender is not None:
            await self._sender

    async def _run(self) -> None:
        while self._frames:
            frames, self._frames = self._frames, []
            for frame in frames:
                kind = "text" if isinstance(frame, str) else "bytes"
                await self._send({"type": "websocket.send", kind: frame})
                self._size_bytes -= len(frame)


class ReadOnlyWhileWritable:
    """A Twisted push producer that reads from the socket only while the socket takes what we write."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        self._transport.resumeProducing()

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        self._transport.stopProducing()


def hold_back_slow_readers(send: Send) -> bool:
    """Tie reading to writing if this `send` leads to a socket of Twisted; returns whether it does."""
    [protocol, *_] = getattr(send, "args", None) or [None]
    transport: Any = getattr(protocol, "transport", None)
    if not hasattr(transport, "registerProducer"):
        return False
    transport.unregisterProducer()  # the HTTP channel's, whose request is over
    transport.registerProducer(ReadOnlyWhileWritable(transport), True)
    return True
