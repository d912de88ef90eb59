"""Frames on their way from one child: none is read that would have to wait in memory.

daphne reads without end, whatever becomes of the frames: a child that sends while the database is asked about an
earlier frame filled our memory (25 MiB/s of small `connect` messages; now none). Where the socket is Twisted's, we stop
reading from a child while we ask, and while it does not read from us, so that TCP itself holds it back. Another server
does that by itself: uvicorn reads the next frame when the one before was taken.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from lakehouse.parent.outflow import Send

T = TypeVar("T")


class Inflow:
    """Also a Twisted push producer, which hears when the socket takes what we write and when it does not."""

    __slots__ = ("_is_free", "_is_writable", "_transport")

    def __init__(self, send: Send) -> None:
        [protocol, *_] = getattr(send, "args", None) or [None]
        transport: Any = getattr(protocol, "transport", None)
        self._transport = transport if hasattr(transport, "registerProducer") else None
        self._is_writable = True
        self._is_free = True

    def hold_back_slow_readers(self) -> bool:
        """Tie reading to writing; whether this socket lets us."""
        if self._transport is None:
            return False
        self._transport.unregisterProducer()  # the HTTP channel's, whose request is over
        self._transport.registerProducer(self, True)
        return True

    async def closed_until(self, done: Awaitable[T]) -> T:
        """Read nothing until this is done."""
        if self._transport is None:
            return await done
        self._is_free = False
        self._turn()
        try:
            return await done
        finally:
            self._is_free = True
            self._turn()

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        self._is_writable = False
        self._turn()

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        self._is_writable = True
        self._turn()

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        assert self._transport is not None
        self._transport.stopProducing()

    def _turn(self) -> None:
        assert self._transport is not None
        if self._is_writable and self._is_free:
            self._transport.resumeProducing()
        else:
            self._transport.pauseProducing()
