"""stream the changes of any SQLite database to a parent, while everybody goes on writing

    evodb capture app.db --parent ws://127.0.0.1:8800/ws            every change from now on
    evodb capture app.db --parent ws://127.0.0.1:8800/ws --snapshot the rows that are there as well
    evodb capture app.db --detach                                   take capture out of the database again

Triggers note each change within the transaction that makes it, whoever makes it. Ctrl-C sends what waits, for five
seconds at most, and leaves the triggers: what is changed meanwhile is sent when capture runs again.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from contextlib import suppress

from rpc.capture.snapshot import Progress
from rpc.capture.sqlite import SqliteCapture
from rpc.client import LakehouseRpcClient
from rpc.commands import options as given
from rpc.commands import screen
from rpc.commands.screen import Screen
from rpc.config import ChildConfig
from rpc.errors import LakehouseRpcError
from rpc.outbox import OutboxBusyError
from rpc.outcome import ClientState

LOOK_S = 0.25
GOODBYE_MS = 5000


def command(argv: list[str]) -> int:
    return given.ended("capture", run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    made = given.parser("capture", __doc__)
    made.add_argument("database", help="the SQLite file of an application, running or not")
    given.with_parent(made)
    made.add_argument("--child", metavar="NAME", help="who this is at the parent; else the file's name without suffix")
    made.add_argument("--tables", metavar="A,B", help="only these; else every table, also those made later")
    made.add_argument("--snapshot", action="store_true", help="also send the rows that are there; once, and resumably")
    made.add_argument("--once", action="store_true", help="end when everything is acknowledged")
    made.add_argument("--detach", action="store_true", help="remove triggers and tables of capture, and end")
    made.add_argument("--force", action="store_true", help="with --detach: give up changes that still wait")
    return made


def run(options: argparse.Namespace) -> int:
    path = given.existing(options.database)
    if options.force and not options.detach:
        raise given.UsageError("--force goes with --detach only")
    if options.detach and (options.snapshot or options.once):
        raise given.UsageError("--detach goes without --snapshot and --once")
    tables = [name.strip() for name in options.tables.split(",") if name.strip()] if options.tables else None
    if tables == []:
        raise given.UsageError("--tables names no table; type --tables a,b or leave it out")
    if options.detach:
        return _detach(options, SqliteCapture(path))
    url, child = given.parent_of(options), given.child_of(options.child or path.stem)
    with SqliteCapture(path, tables=tables) as capture:
        shown = screen.of(as_json=options.json)
        try:
            return asyncio.run(_stream(capture, shown, options, url, child))
        finally:
            shown.close()


def _detach(options: argparse.Namespace, capture: SqliteCapture) -> int:
    try:
        capture.remove(force=options.force)
    except LakehouseRpcError as exc:
        hint = "; or type --detach --force to give them up" if "have not reached" in str(exc) else ""
        raise type(exc)(f"{exc}{hint}") from None
    finally:
        capture.close()
    shown = screen.of(as_json=options.json)
    shown.event("detached", f"{capture.path} is as it was before capture", database=str(capture.path))
    shown.close()
    return given.OK


async def _stream(capture: SqliteCapture, shown: Screen, options: argparse.Namespace, url: str, child: str) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    tables = await asyncio.to_thread(lambda: capture.attach(snapshot=options.snapshot))
    shown.event(
        "attached", f"{capture.path}: capturing {', '.join(tables) or 'no table yet'} as {child}",
        database=str(capture.path), child=child, tables=tables,
    )  # fmt: skip
    # With --once somebody waits for the end; without, a parent that is away comes back some day.
    config = ChildConfig(max_reconnect_attempts=10 if options.once else 0)
    client = LakehouseRpcClient(url, child, outbox=capture, token=given.token_of(options), config=config)
    watch = Watch(capture, client, shown)
    connecting = asyncio.create_task(client.connect())
    try:
        await _until_the_end(stopping, connecting, watch, once=options.once)
    finally:
        connecting.cancel()
        with suppress(asyncio.CancelledError, LakehouseRpcError):
            await connecting
        capture.pause_snapshot()
        await client.disconnect(timeout_ms=GOODBYE_MS)
        waiting = await watch.look()
        kept = f"{waiting:,} wait in {capture.path} for the next run" if waiting else "nothing waits"
        shown.event("stopped", f"stopped; {capture.acked_entries:,} changes acknowledged, {kept}",
                    acked=capture.acked_entries, pending=waiting)  # fmt: skip
    return given.OK


async def _until_the_end(stopping: asyncio.Event, connecting: asyncio.Task[None], watch: Watch, *, once: bool) -> None:
    """Raises what ended the connection for good."""
    while not stopping.is_set():
        waiting = await watch.look()
        if connecting.done():
            connecting.result()
            await watch.check()
            if once and not waiting:
                return
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await stopping.wait()


class Watch:
    """Looks at a capture and its client, and shows what it sees."""

    def __init__(self, capture: SqliteCapture, client: LakehouseRpcClient, shown: Screen) -> None:
        self._capture = capture
        self._client = client
        self._shown = shown
        self._last = (time.monotonic(), 0)
        self._rate = 0.0
        self._finished: set[str] = set()
        self._seen: tuple[int, list[Progress]] = (1, [])  # something may wait until somebody looked

    async def look(self) -> int:
        """Show how things are; returns how many changes and tables of a snapshot wait."""
        with suppress(OutboxBusyError):  # a writer holds the database; as it was, then
            self._seen = await asyncio.to_thread(
                lambda: (self._capture.pending_entries, self._capture.snapshot_progress())
            )
        pending, progress = self._seen
        for found in progress:
            if found.table not in self._finished:
                self._shown.progress(f"snapshot {found.table}", found.rows, found.rows if found.done else found.total)
            if found.done:
                self._finished.add(found.table)
            else:
                self._finished.discard(found.table)
        acked, rate = self._capture.acked_entries, self._rate_now()
        state = self._client.state.value
        text = f"{state}  acked {acked:,}  pending {pending:,}  {rate:,.0f}/s"
        self._shown.status(text, state=state, acked=acked, pending=pending, rate=round(rate, 1))
        return pending + sum(not found.done for found in progress)

    async def check(self) -> None:
        """Have a client that gave up try once more. Raises what it says then."""
        if self._client.state is ClientState.FAILED:
            await self._client.connect()

    def _rate_now(self) -> float:
        """Acknowledged changes per second, over about the last second."""
        then, before = self._last
        now = time.monotonic()
        if now - then >= 1:
            self._rate = (self._capture.acked_entries - before) / (now - then)
            self._last = (now, self._capture.acked_entries)
        return self._rate
