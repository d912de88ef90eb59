"""A captured database and its connection at work, on the screen: what is acknowledged, what waits, and why."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from rpc.capture.snapshot import Progress
from rpc.capture.sqlite import SqliteCapture
from rpc.client import LakehouseRpcClient
from rpc.commands import screen
from rpc.commands.notices import Notices
from rpc.commands.patience import Patience
from rpc.commands.screen import Screen
from rpc.commands.stopping import Stopping, cancelled
from rpc.outbox import OutboxBusyError
from rpc.outcome import ClientState

LOOK_S = 0.25
GOODBYE_MS = 5000


class Streaming:
    def __init__(self, capture: SqliteCapture, client: LakehouseRpcClient, heard: Notices, shown: Screen) -> None:
        self._capture = capture
        self._client = client
        self._heard = heard
        self._shown = shown
        self._last = (time.monotonic(), 0)
        self._rate = 0.0
        self._seen: tuple[int, list[Progress]] = (1, [])  # something may wait until somebody looked
        self._finished: set[str] = set()

    async def run(self, stopping: Stopping, patience: Patience | None) -> int:
        """Until somebody asks to stop, or with `patience` until nothing waits; returns what waits then.

        Raises what ended the connection for good, or the patience.
        """
        # What an earlier run finished is no news.
        self._finished = await asyncio.to_thread(self._finished_snapshots)
        connecting = asyncio.create_task(self._client.connect())
        try:
            while not stopping.signal:
                waiting = await self._look()
                if patience is not None:
                    patience.check(self._client.state, wanted=True, now_s=time.monotonic())
                if connecting.done():
                    connecting.result()
                    if patience is not None and not waiting:
                        break
                    if self._client.state is ClientState.FAILED:
                        connecting = asyncio.create_task(self._client.connect())
                await stopping.within(LOOK_S)
        finally:
            await cancelled(connecting)
            self._capture.pause_snapshot()
            await self._client.disconnect(timeout_ms=GOODBYE_MS)
        return await self._look()

    async def _look(self) -> int:
        """Show how things are; returns how many changes and tables of a snapshot wait."""
        with suppress(OutboxBusyError):  # a writer holds the database; as it was, then
            self._seen = await asyncio.to_thread(
                lambda: (self._capture.pending_entries, self._capture.snapshot_progress())
            )
        pending, progress = self._seen
        self._show(pending, progress)
        return pending + sum(not found.done for found in progress)

    def _show(self, pending: int, progress: list[Progress]) -> None:
        for found in progress:
            if found.table not in self._finished:
                self._shown.progress(f"snapshot {found.table}", found.rows, found.rows if found.done else found.total)
            (self._finished.add if found.done else self._finished.discard)(found.table)
        acked, rate, state = self._capture.acked_entries, self._rate_now(), self._client.state
        if state is ClientState.DISCONNECTED:
            return  # before the first dial, and at the end
        why = self._heard.why(state)
        text = f"acked {acked:,}  pending {pending:,}  {rate:,.0f}/s  {screen.connection(state, why)}"
        self._shown.status(text, state=state.value, error=why, acked=acked, pending=pending, rate=round(rate, 1))

    def _finished_snapshots(self) -> set[str]:
        return {found.table for found in self._capture.snapshot_progress() if found.done}

    def _rate_now(self) -> float:
        """Acknowledged changes per second, over about the last second."""
        then, before = self._last
        now = time.monotonic()
        if now - then >= 1:
            self._rate = (self._capture.acked_entries - before) / (now - then)
            self._last = (now, self._capture.acked_entries)
        return self._rate
