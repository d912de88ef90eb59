"""Ctrl-C and SIGTERM, for a command that runs in an event loop.

The first asks the command to end well. The second ends the process at once: what is kept is on the disk.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from rpc.commands.endings import OF_A_SIGNAL

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Made within a running loop; `signal` is what asked to stop, 0 while nothing did. `last` runs before the end."""

    def __init__(self, last: Callable[[], None]) -> None:
        self.signal = 0
        self._asked = asyncio.Event()
        self._last = last
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._hear, number)

    async def within(self, seconds: float, *others: asyncio.Future[Any]) -> None:
        """Return when somebody asked to stop, when one of these is done, or after so many seconds."""
        asked = asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait({asked, *others}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()

    async def unless_asked(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this, or give it up when somebody asks to stop."""
        task = asyncio.create_task(work)
        try:
            while not (self.signal or task.done()):
                await self.within(60, task)
        finally:
            await cancelled(task)
        with suppress(asyncio.CancelledError):
            task.result()

    def _hear(self, number: int) -> None:
        if self.signal:
            self._last()
            os._exit(OF_A_SIGNAL + number)
        self.signal = number
        self._asked.set()


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel this task and wait for its end, whatever that is."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
