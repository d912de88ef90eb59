"""What a Reading keeps, on its way to a parent: how far it is, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rpc.client import LakehouseRpcClient
from rpc.commands import screen
from rpc.commands.lines import Lines
from rpc.commands.notices import Notices
from rpc.commands.patience import Patience
from rpc.commands.reading import Reading
from rpc.commands.screen import Screen
from rpc.commands.stopping import Stopping, cancelled
from rpc.entries import RawEntry
from rpc.errors import LakehouseRpcError
from rpc.outbox import DeadLetter, OutboxBusyError

LOOK_S = 0.25
GOODBYE_MS = 2000


class End(NamedTuple):
    """How it ended: `rows` were read, up to `line`; `earlier` is what waited from before, `waiting` what waits now.

    `unread` and `unsent` are why that is not all.
    """

    path: Path
    rows: int
    line: int
    is_read: bool
    earlier: int
    waiting: int
    refused: list[DeadLetter]
    unread: Exception | None
    unsent: LakehouseRpcError | None
    signal: int


class Sending:
    """`size_bytes` is how much there is to read, None for a pipe.

    A parent that is away `wait_s` after the last row was read takes them some other time.
    """

    def __init__(
        self,
        client: LakehouseRpcClient,
        lines: Lines,
        found: Iterator[RawEntry],
        *,
        size_bytes: int | None,
        wait_s: float,
    ) -> None:
        self._client = client
        self._lines = lines
        self._reading = Reading(lines, found, client)
        self._size_bytes = size_bytes
        self._wait_s = wait_s
        self._earlier = 0

    async def run(self, stopping: Stopping, heard: Notices, shown: Screen) -> End:
        """To the end of the rows and until the parent has them, or as far as that goes."""
        outbox, read = self._client.outbox, self._reading
        self._earlier, letters = await asyncio.to_thread(lambda: (outbox.pending_entries, len(outbox.dead_letters())))
        read.start()
        unsent = None
        try:
            await self._deliver(stopping, heard, shown)
        except LakehouseRpcError as exc:
            unsent = exc
        finally:
            await read.stop()
            await self._client.disconnect(timeout_ms=GOODBYE_MS if unsent is None else 0)
        waiting, refused = await asyncio.to_thread(lambda: (outbox.pending_entries, outbox.dead_letters()[letters:]))
        return End(
            outbox.path, read.rows, read.line, read.ended.done(), self._earlier, waiting, refused,
            read.failure, unsent, stopping.signal,
        )  # fmt: skip

    async def _deliver(self, stopping: Stopping, heard: Notices, shown: Screen) -> None:
        """Return when all is acknowledged or somebody asks to stop. Raises what keeps it from being sent.

        Nobody is called before something is kept.
        """
        ended, patience = self._reading.ended, Patience(heard, wait_s=self._wait_s)
        connecting = draining = None
        try:
            while not stopping.signal:
                is_read = ended.done()
                waiting = await self._look(heard, shown, is_read=is_read)
                if is_read and not waiting:
                    return
                if waiting and connecting is None:
                    connecting = asyncio.create_task(self._client.connect())
                if is_read and draining is None:
                    draining = asyncio.create_task(self._drain())
                if draining is not None and draining.done():
                    with suppress(OutboxBusyError):  # somebody else is sending from this outbox, our rows as well
                        draining.result()
                    draining = None
                patience.check(self._client.state, wanted=is_read, now_s=asyncio.get_running_loop().time())
                await stopping.within(LOOK_S, *filter(None, (draining, None if is_read else ended)))
        finally:
            for task in filter(None, (connecting, draining)):
                await cancelled(task)

    async def _drain(self) -> None:
        await self._client.connect()
        await self._client.drain()

    async def _look(self, heard: Notices, shown: Screen, *, is_read: bool) -> int:
        """Show how far it is; returns how many rows wait."""
        waiting = await asyncio.to_thread(lambda: self._client.outbox.pending_entries)
        state, rows = self._client.state, self._reading.rows
        why = heard.why(state)
        if self._size_bytes:
            shown.progress("bytes read", self._lines.done_bytes, self._size_bytes)
        if is_read and (everything := rows + self._earlier):
            shown.progress("acknowledged", everything - waiting, everything)
        text = f"read {rows:,}  waiting {waiting:,}  {screen.connection(state, why)}"
        shown.status(text, state=state.value, error=why, read=rows, waiting=waiting)
        return waiting
