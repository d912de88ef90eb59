"""The child's client: what is sent is on disk first, and goes to the parent whenever there is one.

`send` returns when the outbox has the entry; one task per client keeps a connection open and moves batches. Whatever
happens to the connection, the process or the parent, the outbox knows what is not acknowledged yet.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from rpc import clock
from rpc.awaited import Awaited
from rpc.config import DEFAULT_CHILD_CONFIG, ChildConfig
from rpc.entries import RawEntry
from rpc.errors import ConnectionError, FlushError, LakehouseRpcError
from rpc.given import EntryLike, raw_entry
from rpc.keeper import Address, Keeper
from rpc.link import Link
from rpc.messages import AckStatus, DisconnectMessage, FlushResult
from rpc.outbox import Outbox
from rpc.outcome import ClientState, ClientStats, RpcSendResult, Tally
from rpc.protocol import encode_message
from rpc.session import ChildSession, Flushed, Refusal, Resolved, Welcome

__all__ = ["LakehouseRpcClient", "create_rpc_client"]


log = logging.getLogger(__name__)


class LakehouseRpcClient:
    """One child of one parent, for one event loop; it may be connected and disconnected again and again.

    `outbox` is where entries wait: a path, or an Outbox (a SqliteCapture, say) that the caller opens and closes.
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
        now_ms: Callable[[], int] = clock.now_ms,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.child_id = child_id
        self.config = config
        self.state = ClientState.DISCONNECTED
        self._owns_outbox = not isinstance(outbox, Outbox)
        self.outbox = outbox if isinstance(outbox, Outbox) else Outbox(outbox, bytes_max=config.outbox_bytes_max)
        self._shard_name = shard_name
        self._now_ms = now_ms
        self._chance = chance
        self._keeper = Keeper(Address(parent_url, child_id, token), config, self._new_link, chance)
        self._task: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._cutting = asyncio.Lock()
        self._awaited = Awaited()
        self._tally = Tally()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Return when the parent knows this child. Raises AccessDeniedError, or ConnectionError after all attempts."""
        if not self._is_running():
            self.state, self._failure, self._keeper.attempts = ClientState.CONNECTING, None, 0
            self._task = asyncio.create_task(self._keep_connected())
        while self.state is not ClientState.CONNECTED:
            await self._something_after(self._awaited.progress)

    async def send(self, entry: EntryLike) -> None:
        """Keep one change; it is on disk when this returns and leaves with the next batch."""
        await self.send_many([entry])

    async def send_many(self, entries: Iterable[EntryLike]) -> int:
        """Keep these changes, all or none; returns how many. Raises BufferOverflowError, ProtocolError."""
        stored = await asyncio.to_thread(self.outbox.append, self._raw(entries))
        self._wake()
        return stored

    async def send_batch(self, entries: Iterable[EntryLike]) -> RpcSendResult:
        """Keep these changes, send them at once, and return when the parent has them or refused them for good."""
        raw = self._raw(entries)
        async with self._cutting:
            with self._awaited.early_answers():
                sequences = await asyncio.to_thread(self._append_and_cut, raw)
                futures = self._awaited.batches(sequences)
        self._wake()
        answers = await asyncio.gather(*futures)
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        statuses = [answer.status for answer in answers if isinstance(answer, Resolved)]
        return RpcSendResult(
            success=not refusals,
            sequence_numbers=sequences,
            entries=len(raw),
            status=statuses[-1] if statuses else None,
            error=refusals[0].text if refusals else None,
        )

    async def drain(self) -> None:
        """Send everything kept, full batch or not, and return when all of it is acknowledged or a dead letter.

        Raises what ended the connection for good, if that happens first.
        """
        epoch = None
        while epoch != (epoch := await asyncio.to_thread(lambda: self.outbox.epoch)):
            # A new epoch meanwhile has made entries of batches, which are to be cut again.
            async with self._cutting:
                await asyncio.to_thread(self._append_and_cut, [])
            self._wake()
            await self._acknowledged()

    async def _acknowledged(self) -> None:
        while True:
            progress = self._awaited.progress
            if not await asyncio.to_thread(lambda: self.outbox.pending_batches):
                return
            await self._something_after(progress)

    async def request_flush(self) -> FlushResult:
        """Send what is kept, have the parent write it all into tables, and return when it has.

        Raises FlushError when the parent could not, ConnectionError without a connection.
        """
        await self.drain()
        if self._keeper.link is None:
            raise self._failure or ConnectionError("not connected; call connect() first")
        correlation_id = uuid.uuid4().hex
        awaited = self._awaited.flush(correlation_id)
        try:
            await self._keeper.link.request_flush(correlation_id)
        except ConnectionClosed as exc:
            raise ConnectionError(f"the connection closed: {exc}") from exc
        result = await awaited
        if not result.success:
            raise FlushError(result.error or "", used_fallback=result.used_fallback)
        return result

    async def disconnect(self, *, timeout_ms: int = 5000) -> None:
        """Send what is kept if the parent takes it in time, say goodbye, and stop every timer.

        What could not be sent stays in the outbox for the next connection.
        """
        if self._task is not None:
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    await self._part()
            except (TimeoutError, ConnectionClosed, LakehouseRpcError):
                pass  # the outbox keeps what is left
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.state = ClientState.DISCONNECTED
        self._awaited.fail_flushes(ConnectionError("disconnected before the flush was answered"))
        self._awaited.fail_batches(ConnectionError("disconnected; what was not acknowledged stays in the outbox"))

    async def close(self) -> None:
        """Disconnect, and close the outbox if the client opened it."""
        await self.disconnect()
        if self._owns_outbox:
            await asyncio.to_thread(self.outbox.close)

    def get_stats(self) -> ClientStats:
        return ClientStats(
            state=self.state,
            last_sequence=self.outbox.last_sequence,
            last_ack_sequence=self._tally.last_ack,
            pending_batches=self.outbox.pending_batches,
            batch_buffer_size=self.outbox.uncut_entries(),
            batch_buffer_bytes=self.outbox.pending_bytes,
            reconnect_attempts=self._keeper.attempts,
            reconnects=max(0, self._tally.welcomes - 1),
            messages_sent=self._tally.messages,
            bytes_sent=self._tally.size_bytes,
            acked_batches=self._tally.acked,
            duplicates=self._tally.duplicates,
            refused_batches=self._tally.refused,
            error=None if self._failure is None else f"{type(self._failure).__name__}: {self._failure}",
        )

    def welcomed(self, welcome: Welcome) -> None:
        self.state, self._keeper.attempts = ClientState.CONNECTED, 0
        self._tally.welcomes += 1
        self._tally.last_ack = welcome.resume_sequence
        self._awaited.answered_through(welcome.resume_sequence, Resolved(0, AckStatus.OK, None))
        self._awaited.tick()

    def renewed(self) -> None:
        text = "the outbox began a new epoch; what it keeps is sent under new sequences"
        self._awaited.fail_batches(ConnectionError(text))

    def resolved(self, resolved: Resolved) -> None:
        self._tally.acked += 1
        self._tally.duplicates += resolved.status is AckStatus.DUPLICATE
        self._tally.last_ack = max(self._tally.last_ack, resolved.sequence)
        self._awaited.answered(resolved)

    def refused(self, refusal: Refusal) -> None:
        self._tally.refused += 1
        if refusal.final:
            self._awaited.answered(refusal)

    def flushed(self, flushed: Flushed) -> None:
        self._awaited.flushed(flushed.correlation_id, flushed.result)

    def sent(self, size_bytes: int) -> None:
        self._tally.messages += 1
        self._tally.size_bytes += size_bytes

    def _raw(self, entries: Iterable[EntryLike]) -> list[RawEntry]:
        now_ms = self._now_ms()
        return [raw_entry(entry, now_ms=now_ms) for entry in entries]

    def _append_and_cut(self, raw: list[RawEntry]) -> list[int]:
        """Everything kept becomes batches; returns the sequences of those cut now."""
        if raw:
            self.outbox.append(raw)
        sequences = []
        while (
            batch := self.outbox.cut(entries_max=self.config.max_batch_size, bytes_max=self.config.max_batch_bytes)
        ) is not None:
            sequences.append(batch.sequence)
        return sequences

    def _new_link(self, socket: ClientConnection) -> Link:
        session = ChildSession(child_id=self.child_id, epoch=0, config=self.config, shard=self._shard_name)
        return Link(
            socket,
            self.outbox,
            session,
            self,
            config=self.config,
            cutting=self._cutting,
            now_ms=self._now_ms,
            chance=self._chance,
        )

    async def _keep_connected(self) -> None:
        try:
            await self._keeper.keep(self._lost)
        except Exception as exc:
            log.error("child %r is not connected any more: %s", self.child_id, exc)
            self._failure, self.state = exc, ClientState.FAILED
            self._awaited.fail_batches(exc)
            self._awaited.fail_flushes(exc)
        finally:
            self._awaited.tick()

    def _lost(self, reason: LakehouseRpcError) -> None:
        if self.state is ClientState.CONNECTED:
            self.state = ClientState.RECONNECTING
        if self._keeper.attempts <= 1 and reason.retryable:
            log.warning("child %r: %s; trying again", self.child_id, reason)
        self._awaited.fail_flushes(reason)
        self._awaited.tick()

    async def _part(self) -> None:
        if self._keeper.link is not None:
            await self.drain()
        if self._keeper.link is not None:
            goodbye = DisconnectMessage(timestamp=self._now_ms(), reason="disconnect")
            await self._keeper.link.put(str(encode_message(goodbye)))

    def _wake(self) -> None:
        if self._keeper.link is not None:
            self._keeper.link.wake()

    def _is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _something_after(self, progress: asyncio.Event) -> None:
        """Until an answer, a connection or a loss. Raises when nothing will happen any more."""
        if not self._is_running():
            raise self._failure or ConnectionError("not connected; call connect() first")
        await progress.wait()


def create_rpc_client(parent_url: str, child_id: str, **options: Any) -> LakehouseRpcClient:
    """A client whose outbox is `evodb-outbox-<child id>.sqlite3` in the working folder when none is given."""
    options.setdefault("outbox", f"evodb-outbox-{re.sub(r'[^A-Za-z0-9._-]', '_', child_id)}.sqlite3")
    return LakehouseRpcClient(parent_url, child_id, **options)
