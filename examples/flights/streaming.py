"""The way of the changes from the edge databases to the lake, with the death of the parent in the middle.

Every carrier is a child: a `SqliteCapture` notes what its application writes, a `LakehouseRpcClient` sends it.
"""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from house import Failed, House, peak_mib
from source import Writers

from rpc import ChildConfig, ClientState, LakehouseRpcClient
from rpc.capture.sqlite import SqliteCapture

LOOK_EVERY_S = 0.05
PATIENCE_S = 60
"""Without a single ack; then something is broken."""
FLUSH_S = 300
"""For what waits when the last change is acknowledged."""
CONFIG = ChildConfig(
    max_reconnect_attempts=0,  # never give up
    max_pending_batches=8,  # what is on its way sits in the parent's memory
    batch_timeout_ms=200,
)


@dataclass(slots=True)
class Report:
    """What happened on the way."""

    took_s: float = 0.0
    """From the first write until everything was in the table."""
    freshness_s: float = 0.0
    """From the last ack until then."""
    acked_at_kill: int = 0
    killed_pid: int = 0
    restarted_pid: int = 0
    reconnected_s: float = 0.0
    """From the kill until all children were back."""
    reconnects: int = 0
    duplicates: int = 0
    """Batches that were sent twice, and answered so."""
    peak_mib: float = 0.0
    """Of the parent, before or after the kill."""


class Street:
    """All children, the parent they stream to, and those who write."""

    def __init__(self, house: House, writers: Writers, *, show: Callable[[int], None]) -> None:
        self._house = house
        self._writers = writers
        self._show = show
        self._captures: list[SqliteCapture] = []
        self._clients: list[LakehouseRpcClient] = []
        self._last_acked = 0
        self._moved_s = 0.0

    async def walk(self, databases: dict[str, Path], *, entries: int) -> Report:
        """Have everything written, streamed and flushed; kill the parent when half of it is acknowledged."""
        report = Report()
        async with AsyncExitStack() as stack:
            for carrier, path in databases.items():
                await self._join(stack, carrier, path)
            stack.callback(self._writers.stop)
            self._writers.start()
            await self._until(lambda: self._writers.changes > 0)
            begun = time.monotonic()
            await self._until(lambda: self._acked() >= entries // 2)
            await self._kill(report)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._until(lambda: self._acked() == entries))
                await asyncio.to_thread(self._writers.join)
                for client in self._clients:
                    tasks.create_task(client.drain())
            acked = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                flushed = tasks.create_task(self._clients[0].request_flush())
                tasks.create_task(self._until(flushed.done, within_s=FLUSH_S))
            report.took_s, report.freshness_s = time.monotonic() - begun, time.monotonic() - acked
            self._count(report)
        return report

    async def _join(self, stack: AsyncExitStack, carrier: str, path: Path) -> None:
        capture = stack.enter_context(SqliteCapture(path))
        capture.attach()
        client = LakehouseRpcClient(self._house.url, carrier, outbox=capture, token=self._house.token, config=CONFIG)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await stack.enter_async_context(client)
        except TimeoutError:
            raise Failed(f"{carrier} could not connect within {PATIENCE_S} s; {self._house.log} may say why") from None
        self._captures.append(capture)
        self._clients.append(client)

    def _acked(self) -> int:
        """How many changes are acknowledged; it may be more, for the writers go on while we count."""
        written = self._writers.changes
        acked = max(0, written - sum(capture.pending_entries for capture in self._captures))
        if acked != self._last_acked:
            self._last_acked, self._moved_s = acked, time.monotonic()
        self._show(acked)
        return acked

    async def _kill(self, report: Report) -> None:
        report.acked_at_kill = self._acked()
        report.peak_mib = peak_mib(self._house.daphne_pid())
        before, killed = self._reconnects(), time.monotonic()
        report.killed_pid = self._house.kill_daphne()
        self._writers.go_on()
        await self._until(lambda: all(map(operator.gt, self._reconnects(), before)))
        report.reconnected_s = time.monotonic() - killed
        report.restarted_pid = self._house.daphne_pid()

    def _count(self, report: Report) -> None:
        report.reconnects = sum(self._reconnects())
        report.duplicates = sum(client.get_stats().duplicates for client in self._clients)
        report.peak_mib = max(report.peak_mib, peak_mib(self._house.daphne_pid()))

    def _reconnects(self) -> list[int]:
        return [client.get_stats().reconnects for client in self._clients]

    async def _until(self, condition: Callable[[], bool], *, within_s: float = PATIENCE_S) -> None:
        """Raises when it will not come true any more."""
        self._moved_s = time.monotonic()
        while not await asyncio.to_thread(condition):
            self._house.look()
            for client in self._clients:
                if client.state is ClientState.FAILED:
                    await client.drain()  # raises what ended it
            if time.monotonic() - self._moved_s > within_s:
                states = ", ".join(f"{client.child_id} {client.state}" for client in self._clients)
                raise Failed(f"nothing moved for {within_s} s; {self._house.log} may say why. Children: {states}")
            await asyncio.sleep(LOOK_EVERY_S)
