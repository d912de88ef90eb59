"""Replies on their way to one child: in order, and never more of them than the child reads.

An ASGI server may take replies without end while the child does not read; daphne does, and `inflow` holds such a child
back. Elsewhere `send` waits, and a child that makes more than `BYTES_MAX` of replies wait is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from rpc.failpoints import Failpoint, reach

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]
Write = Callable[[Iterable[str | bytes]], None]
BYTES_MAX = 4 * 1024 * 1024


class Outflow:
    """`write` sends many at once and does not wait; without it every reply is a `send` of ASGI."""

    def __init__(self, send: Send, *, write: Write | None = None) -> None:
        self._send = send
        self.write = write
        self._frames: list[str | bytes] = []
        self._size_bytes = 0
        self._sender: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def is_empty(self) -> bool:
        return not self._frames and (self._sender is None or self._sender.done())

    @property
    def is_overfull(self) -> bool:
        return self._size_bytes > BYTES_MAX

    def put(self, frame: str | bytes) -> None:
        """Send this after everything put before. One task sends what a whole group brought."""
        if self._is_closed:
            return
        self._frames.append(frame)
        self._size_bytes += len(frame)
        if self.write is not None:
            if len(self._frames) == 1:
                asyncio.get_running_loop().call_soon(self._write_all)
        elif self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._run())

    async def drained(self) -> None:
        self._write_all()
        if self._sender is not None:
            await self._sender

    def close(self) -> None:
        """Nobody is there any more: what waits and what comes is forgotten."""
        self._is_closed = True
        self._frames.clear()
        if self._sender is not None:
            self._sender.cancel()

    def _write_all(self) -> None:
        if self.write is not None and self._frames:
            frames, self._frames, self._size_bytes = self._frames, [], 0
            self.write(frames)
            reach(Failpoint.ACKED)

    async def _run(self) -> None:
        while self._frames:
            frames, self._frames = self._frames, []
            for frame in frames:
                kind = "text" if isinstance(frame, str) else "bytes"
                try:
                    await self._send({"type": "websocket.send", kind: frame})
                except OSError:  # a server may say that nobody is there; the receiving side hears it too
                    self._is_closed = True
                    return
                except Exception:
                    log.exception("an answer of %d bytes was not sent", len(frame))
                self._size_bytes -= len(frame)
            reach(Failpoint.ACKED)
