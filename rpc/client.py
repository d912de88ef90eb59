"""The child's client: what is sent is on disk first, and goes to the parent whenever there is one.

`send` returns when the outbox has the entry; one task per client keeps a connection open and moves batches. Whatever
happens to the connection, the process or the parent, the outbox knows what is not acknowledged yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, Self, TypeAlias, get_args

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from rpc import clock, report
from rpc.address import Address
from rpc.awaited import Awaited
from rpc.config import DEFAULT_CHILD_CONFIG, ChildConfig
from rpc.deduplication import DEFAULT_DEDUP_CONFIG, DedupConfig
from rpc.depot import Depot, Sent
from rpc.errors import ConnectionError, LakehouseRpcError, OutboxClosedError, as_ours
from rpc.flushing import flush
from rpc.given import EntryLike
from rpc.handlers import Announcer, Handlers
from rpc.keeper import Keeper
from rpc.ledger import Ledger
from rpc.link import Link
from rpc.messages import DisconnectMessage, FlushResult
from rpc.one_loop import OneLoop
from rpc.outbox import Outbox
from rpc.outcome import ClientState, ClientStats, RpcSendResult
from rpc.protocol import encode_message
from rpc.session import ChildSession

__all__ = ["LakehouseRpcClient", "Wait"]

log = logging.getLogger(__name__)

Wait: TypeAlias = Literal["durable", "persisted"]


class LakehouseRpcClient:
    """One child of one parent, for one event loop; it may be connected and disconnected again and again.

    `outbox` is where entries wait: a path, or an Outbox (a SqliteCapture, say) that the caller opens and closes.
    `steady_ms` is the clock of timers, which nobody sets back; `now_ms` that of entries.
    `dedup` bounds how entries with an `lsn` are remembered, so that one handed in twice is sent once.
    """

    def __init__(
        self,
        parent_url: str,
        child_id: str,
        *,
        outbox: Outbox | str | Path,
        token: str | None = None,
        shard_name: str | None = None,
        config: ChildConfig = DEFAULT_CHILD_CONFIG,
        dedup: DedupConfig | None = DEFAULT_DEDUP_CONFIG,
        handlers: Handlers | None = None,
        now_ms: Callable[[], int] = clock.now_ms,
        steady_ms: Callable[[], int] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.child_id = child_id
        self.config = config
        self._shard_name = shard_name
        self._steady_ms = steady_ms or (clock.steady_ms() if now_ms is clock.now_ms else now_ms)
        self._chance = chance
        self._keeper = Keeper(Address(parent_url, child_id, token), config, self._new_link, chance)
        self._announcer = Announcer(handlers or Handlers(), config.on_handler_error)
        self._ledger = Ledger(config, self._announcer, now_ms=self._steady_ms)
        self._depot = Depot(outbox, self._ledger, self._keeper, config=config, dedup=dedup, now_ms=now_ms)
        self._task: asyncio.Task[None] | None = None
        self._failure: LakehouseRpcError | None = None
        self._loop = OneLoop(child_id)
        self._last: ClientStats | None = None
        """The numbers when it was closed, for then the outbox tells nothing any more."""

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()  # nobody else would
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def state(self) -> ClientState:
        return self._ledger.state

    @property
    def outbox(self) -> Outbox:
        return self._depot.outbox

    async def connect(self) -> None:
        """Return when the parent knows this child. Raises AccessDeniedError, or ConnectionError after all attempts."""
        self._here()
        if self._last is not None:
            raise OutboxClosedError(f"this client and its outbox {self.outbox.path} are closed; make a new one")
        if not self._is_running():
            self._failure, self._keeper.attempts, self._keeper.hang_up_by_s = None, 0, None
            self._ledger.become(ClientState.CONNECTING)
            self._task = asyncio.create_task(self._keep_connected())
        await self._connected()

    async def send(self, entry: EntryLike) -> None:
        """Keep one change; it is on disk when this returns and leaves with the next batch."""
        await self.send_many([entry])

    async def send_many(self, entries: Iterable[EntryLike]) -> int:
        """Keep these changes, all or none; returns how many were new. Raises BufferOverflowError, ProtocolError.

        An entry whose `lsn` and content were handed in before is not kept again.
        """
        self._here()
        return await self._depot.keep(entries)

    async def send_batch(self, entries: Iterable[EntryLike], *, wait: Wait = "durable") -> RpcSendResult:
        """Keep these changes, send them at once, and return when the parent has them or refused them for good.

        With `wait="persisted"`: when they are in the table, which takes as long as the parent's next flush. Without an
        answer for `pending_batch_ttl_ms`, or when the connection is given up, the result is `kept`: the entries are
        safe and are not to be handed in again. Raises only what `send` raises, with nothing kept. Entries known by
        `lsn` and content are waited for where they are.
        """
        self._here()
        if wait not in get_args(Wait):
            raise ValueError(f"wait is {wait!r}, wanted {' or '.join(map(repr, get_args(Wait)))}; nothing was kept")
        sent = await self._depot.send(entries)
        result = await sent.result(ttl_ms=self.config.pending_batch_ttl_ms)
        return await self._in_tables(sent, result) if wait == "persisted" and result.success else result

    async def drain(self) -> None:
        """Send everything kept, full batch or not, and return when all of it is acknowledged or a dead letter.

        Raises what ended the connection for good, if that happens first.
        """
        self._here()
        epoch = None
        while epoch != (epoch := await asyncio.to_thread(lambda: self.outbox.epoch)):
            # A new epoch meanwhile has made entries of batches, which are to be cut again.
            await self._depot.cut()
            await self._acknowledged()

    async def request_flush(self) -> FlushResult:
        """Send what is kept, have the parent write it all into tables, and return when it has.

        Waits for a connection that is dialled, and for a flush that another call asked for. Raises FlushError when the
        parent could not, ConnectionError when the connection ends before the answer, or when nobody dials.
        """
        await self.drain()
        return await flush(self._ledger.awaited, self._connected)

    async def disconnect(self, *, timeout_ms: int = 5000) -> None:
        """Send what the parent takes in time, say goodbye, and stop every timer; the outbox keeps the rest."""
        self._here()
        until_s = asyncio.get_running_loop().time() + timeout_ms / 1000
        try:
            if self._task is not None:
                async with asyncio.timeout_at(until_s):
                    await self._part()
        except (TimeoutError, ConnectionClosed, LakehouseRpcError):
            pass  # the outbox keeps what is left
        finally:  # cancelled or not
            self._keeper.hang_up_by_s = until_s
            await self._stop()

    async def close(self) -> None:
        """Disconnect, and close the outbox if the client opened it. What it counted can still be asked for."""
        self._here()
        try:
            await self.disconnect()
        finally:
            if self._depot.owns_outbox:
                with contextlib.suppress(LakehouseRpcError):
                    self._last = self.get_stats()
            await self._depot.close()

    def get_stats(self) -> ClientStats:
        return self._last or report.stats(self._ledger, self.outbox, self._keeper.attempts, self._failure)

    def status(self) -> report.Status:
        """The integration guide's picture of a connection."""
        return report.status(self.get_stats())

    def metrics_text(self) -> str:
        """Prometheus lines, those of the integration guide first."""
        return report.metrics_text(self.get_stats())

    async def _stop(self) -> None:
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if self._task is task:
                self._task = None
        self._ledger.awaited.fail_flushes(ConnectionError("disconnected before the flush was answered"))
        text = "disconnected; what was not acknowledged stays in the outbox"
        self._ledger.ended(ClientState.DISCONNECTED, ConnectionError(text))
        await self._announcer.stop()

    def _here(self) -> None:
        """Raises RuntimeError in a second event loop; one that has ended leaves nothing but what the outbox has."""
        if self._loop.enter():
            self._task, self._keeper.link = None, None
            self._depot.cutting, self._ledger.awaited = asyncio.Lock(), Awaited()
            self._ledger.state = ClientState.DISCONNECTED

    async def _connected(self) -> Link:
        while self.state is not ClientState.CONNECTED or self._keeper.link is None:
            await self._something_after(self._ledger.awaited.progress)
        return self._keeper.link

    async def _in_tables(self, sent: Sent, result: RpcSendResult) -> RpcSendResult:
        futures = self._ledger.awaited.tables(sent.tables)
        self._keeper.wake()
        if not self._is_running():
            self._ledger.awaited.fail_batches(self._failure or ConnectionError("disconnected; the batch is durable"))
        return await sent.persisted(result, futures)

    async def _acknowledged(self) -> None:
        while True:
            progress = self._ledger.awaited.progress
            if not await asyncio.to_thread(lambda: self.outbox.pending_batches):
                return
            await self._something_after(progress)

    def _new_link(self, socket: ClientConnection) -> Link:
        kept = self.outbox.kept_encodings()
        session = ChildSession(child_id=self.child_id, epoch=0, config=self.config, shard=self._shard_name, kept=kept)
        return Link(
            socket,
            self.outbox,
            session,
            self._ledger,
            config=self.config,
            cutting=self._depot.cutting,
            now_ms=self._steady_ms,
            chance=self._chance,
        )

    async def _keep_connected(self) -> None:
        sweeper = asyncio.create_task(self._sweep_for_ever())
        try:
            await self._keeper.keep(self._lost)
        except Exception as exc:
            log.error("child %r is not connected any more: %s", self.child_id, exc)
            self._failure = as_ours(exc)
            self._ledger.ended(ClientState.FAILED, self._failure)
        finally:
            sweeper.cancel()
            self._ledger.awaited.tick()

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.config.pending_batch_cleanup_interval_ms / 1000)
            self._ledger.sweep()

    def _lost(self, reason: LakehouseRpcError) -> None:
        if self._keeper.attempts <= 1 and reason.retryable:
            log.warning("child %r: %s; trying again", self.child_id, reason)
        self._ledger.lost(reason)

    async def _part(self) -> None:
        if self._keeper.link is not None:
            await self.drain()
        if self._keeper.link is not None:
            goodbye = DisconnectMessage(timestamp=self._steady_ms(), reason="disconnect")
            await self._keeper.link.put(str(encode_message(goodbye)))

    def _is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _something_after(self, progress: asyncio.Event) -> None:
        """Until an answer, a connection or a loss. Raises when nothing will happen any more."""
        if not self._is_running():
            raise self._failure or ConnectionError("not connected; call connect() first")
        await progress.wait()
        if not self._is_running() and self._failure is None:
            raise ConnectionError("disconnected meanwhile by another call; call connect() to go on")
