"""The real parent behind a real socket, in the event loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
import uvicorn.server

from evodb_site.asgi import application
from lakehouse.conf import Settings
from lakehouse.parent.house import House, move_in, open_house


class Hurried:
    """asyncio as uvicorn has it here: it looks ten times as often whether it shall stop, and who is still there.

    Else stopping it takes 0.3 s, for each of two hundred tests in both databases.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(delay_s: float) -> None:
        await asyncio.sleep(delay_s / 10)


uvicorn.server.asyncio = Hurried()


@dataclass
class Server:
    """Listens on a port of its own, which stays the same when it is stopped and started again."""

    settings: Settings
    listener: socket.socket
    asked: list[tuple[int, str]] = field(default_factory=list)
    house: House | None = None
    _server: uvicorn.Server | None = None
    _task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.listener.getsockname()[1]}/ws"

    async def start(self) -> None:
        self.house = move_in(open_house(self.settings, ask=lambda *asked: self.asked.append(asked)))
        config = uvicorn.Config(application, lifespan="off", log_level="error", ws="websockets-sansio")
        self._server = _QuietServer(config)
        copy = self.listener.dup()
        self._task = asyncio.create_task(self._server.serve(sockets=[copy]))
        while not self._server.started:
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Close every connection and stop listening; connections made meanwhile wait in the backlog."""
        assert self._server is not None
        assert self._task is not None
        assert self.house is not None
        self._server.should_exit = True
        await self._task
        await self.house.close()


class _QuietServer(uvicorn.Server):
    """Leaves the signals of the test run alone."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield


@contextlib.asynccontextmanager
async def serving(**settings: object) -> AsyncIterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(Settings(**({"open": True} | settings)), listener)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
