"""The whole client in an event loop whose time is given: no threads, no waiting, the same story every time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosedError

from rpc.client import LakehouseRpcClient
from rpc.config import ChildConfig
from rpc.outbox import Outbox
from tests.builders import NOW_MS
from tests.simulation.sides import Frame, Line, entry

TURNS_MAX = 2000
"""A client that has something to do for so long without time going on is in a loop."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Work for threads is done at once; timers are due when `now_s` says so."""

    def __init__(self, now_s: Callable[[], float], dial: Callable[[], Socket]) -> None:
        self._now_s = now_s
        self.dial = dial
        super().__init__()

    def time(self) -> float:
        return self._now_s()

    def run_in_executor(self, executor: Any, work: Any, *arguments: Any) -> Any:
        future = self.create_future()
        try:
            future.set_result(work(*arguments))
        except Exception as exc:
            future.set_exception(exc)
        return future

    def run_until_idle(self) -> None:
        for _ in range(TURNS_MAX):
            self.call_soon(self.stop)
            self.run_forever()
            is_due = any(not timer.cancelled() and timer.when() <= self.time() for timer in self._scheduled)
            if not self._ready and not is_due:
                return
        raise AssertionError(f"busy for {TURNS_MAX} turns of the loop, and no time went on")


class Socket:
    """What rpc.keeper and rpc.link use of a connection."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        """None is the end of the connection."""

    async def send(self, frame: Frame) -> None:
        if not self.line.is_open:
            raise ConnectionClosedError(None, None)
        self.line.say(frame)

    async def recv(self) -> Frame:
        frame = await self.frames.get()
        if frame is None:
            self.frames.put_nowait(None)
            raise ConnectionClosedError(None, None)
        return frame

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while True:
            yield await self.recv()

    async def close(self) -> None:
        self.line.cut()
        self.frames.put_nowait(None)


async def dial(*_: object) -> Socket:
    """Stands for rpc.dialling in rpc.keeper."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.dial()


class WholeChild:
    """As sides.ChildSide, with nothing left out but the network."""

    def __init__(
        self,
        name: str,
        path: Path,
        config: ChildConfig,
        *,
        dial: Callable[[], Line],
        now_ms: Callable[[], int],
        passed_ms: Callable[[], int],
    ) -> None:
        self.config = config
        self._dial = dial
        self._now_ms = now_ms
        self._socket: Socket | None = None
        self._loop = VirtualLoop(lambda: passed_ms() / 1000, self._open)
        self.outbox = Outbox(path, now_ms=now_ms)
        self.client = LakehouseRpcClient(
            f"ws://{name}",
            name,
            outbox=self.outbox,
            config=config,
            now_ms=now_ms,
            steady_ms=lambda: NOW_MS + passed_ms(),
            chance=lambda: 0.5,
        )
        self._connecting = self._loop.create_task(self.client.connect())

    @property
    def line(self) -> Line | None:
        return self._socket.line if self._socket is not None and self._socket.line.is_open else None

    def append(self, numbers: list[int]) -> None:
        entries = [entry(number, timestamp_ms=self._now_ms()) for number in numbers]
        self._loop.run_until_complete(self.client.send_many(entries))

    def cut(self, entries_max: int) -> None:
        self.outbox.cut(entries_max=entries_max, bytes_max=self.config.max_batch_bytes)

    def step(self) -> None:
        self._loop.run_until_idle()

    def hear(self, frames: int) -> None:
        if self._socket is not None and self.line is not None:
            heard, self.line.down[:frames] = self.line.down[:frames], []
            for frame in heard:
                self._socket.frames.put_nowait(frame)
            self._loop.run_until_idle()

    def hang_up(self) -> None:
        """The line was cut, and the child notices."""
        if self._socket is not None:
            self._socket.line.cut()
            self._socket.frames.put_nowait(None)
            self._loop.run_until_idle()

    def close(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True)) if tasks else None
        self._loop.close()
        self.outbox.close()
        if self._socket is not None:
            self._socket.line.cut()

    def _open(self) -> Socket:
        self._socket = Socket(self._dial())
        return self._socket
