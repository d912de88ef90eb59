"""One connection at work: batches from the outbox onto the wire, answers back into the outbox.

A reader and a sender over one Sans-I/O session. It ends with the exception that ended the connection; the client above
opens the next one. Outbox calls run in threads, since each may wait for a disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from websockets.asyncio.client import ClientConnection

from rpc.config import ChildConfig
from rpc.errors import ConnectionError
from rpc.outbox import Outbox, OutboxBatch
from rpc.session import ChildSession, Flushed, Refusal, Resolved, Welcome

RESENT_AT_ONCE = 8
"""Unacked batches read from the outbox in one go."""


class Listener(Protocol):
    """Who hears what the parent said; called in the event loop, after the outbox was told."""

    def welcomed(self, welcome: Welcome, *, new_epoch: bool) -> None: ...
    def resolved(self, resolved: Resolved) -> None: ...
    def refused(self, refusal: Refusal) -> None: ...
    def flushed(self, flushed: Flushed) -> None: ...
    def sent(self, size_bytes: int) -> None: ...


class Link:
    """One open socket. `cutting` is held while entries are made into batches."""

    def __init__(
        self,
        socket: ClientConnection,
        outbox: Outbox,
        session: ChildSession,
        listener: Listener,
        *,
        config: ChildConfig,
        cutting: asyncio.Lock,
        now_ms: Callable[[], int],
        chance: Callable[[], float],
    ) -> None:
        self.session = session
        self._socket = socket
        self._outbox = outbox
        self._listener = listener
        self._config = config
        self._cutting = cutting
        self._now_ms = now_ms
        self._chance = chance
        self._wake = asyncio.Event()
        self._answers: list[Resolved | Refusal] = []
        self._last_sent = 0
        self._last_ack = 0
        self._first_uncut_ms: int | None = None

    def wake(self) -> None:
        """There is something new to look at."""
        self._wake.set()

    async def send_text(self, frame: str) -> None:
        await self._socket.send(frame)

    async def request_flush(self, correlation_id: str) -> None:
        await self._socket.send(self.session.flush_request(correlation_id, now_ms=self._now_ms()))

    async def run(self) -> None:
        """Greet, resume, and work until the connection ends. Always raises."""
        await self._greet()
        reader = asyncio.create_task(self._read())
        try:
            await self._send_for_ever(reader)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await asyncio.shield(self._settle())

    async def _greet(self) -> None:
        """Say hello until both sides agree on an epoch."""
        new_epoch = False
        while True:
            self.session.epoch, last = await asyncio.to_thread(lambda: (self._outbox.epoch, self._outbox.last_sequence))
            await self._socket.send(self.session.hello(last_ack_sequence=self._last_ack, now_ms=self._now_ms()))
            async with asyncio.timeout(self._config.handshake_timeout_ms / 1000):
                welcome = await self._welcome()
            if welcome.resume_sequence <= last:
                break
            # The parent has batches of this epoch that this file never cut: it came back from a backup.
            await asyncio.to_thread(self._outbox.renew_epoch)
            new_epoch = True
        self._last_sent = self._last_ack = welcome.resume_sequence
        await asyncio.to_thread(self._outbox.ack_through, welcome.resume_sequence)
        self._listener.welcomed(welcome, new_epoch=new_epoch)

    async def _welcome(self) -> Welcome:
        while True:
            event = self.session.receive(await self._socket.recv(), now_ms=self._now_ms(), chance=self._chance())
            if isinstance(event, Welcome):
                return event

    async def _read(self) -> None:
        async for frame in self._socket:
            event = self.session.receive(frame, now_ms=self._now_ms(), chance=self._chance())
            if isinstance(event, Flushed):
                self._listener.flushed(event)
            elif isinstance(event, (Resolved, Refusal)):
                self._answers.append(event)
                self._wake.set()

    async def _send_for_ever(self, reader: asyncio.Task[None]) -> None:
        while True:
            self._wake.clear()
            await self._settle()
            if self.session.is_dead(now_ms=self._now_ms()):
                raise ConnectionError("the parent does not answer any more")
            for sequence in self.session.overdue(now_ms=self._now_ms()):
                await self._resend(sequence)
            while self.session.room(now_ms=self._now_ms()) and await self._send_some():
                await self._settle()
            if self.session.wants_heartbeat(now_ms=self._now_ms()):
                await self._heartbeat()
            await self._sleep(reader)

    async def _sleep(self, reader: asyncio.Task[None]) -> None:
        """Until something is to be done, or the reader ended; then its reason is ours."""
        waiter = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait((reader, waiter), timeout=self._due_in_s(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if reader.done():
            reader.result()
            await self._socket.recv()  # a clean close ends the iteration without a word; this says it

    async def _send_some(self) -> bool:
        """Send the next batches: those cut before, in order, then newly cut ones. False when there is nothing now."""
        after = self._last_sent
        limit = min(RESENT_AT_ONCE, self.session.room(now_ms=self._now_ms()))
        batches = await asyncio.to_thread(lambda: self._outbox.unacked(after=after, limit=limit))
        if not batches:
            async with self._cutting:
                cut = await asyncio.to_thread(self._cut_if_due)
            batches = [] if cut is None else [cut]
        for batch in batches:
            self._last_sent = batch.sequence
            await self._send(batch)
        return bool(batches)

    def _cut_if_due(self) -> OutboxBatch | None:
        uncut, now_ms = self._outbox.uncut_entries(), self._now_ms()
        if not uncut:
            self._first_uncut_ms = None
            return None
        if self._first_uncut_ms is None:
            self._first_uncut_ms = now_ms
        if uncut < self._config.max_batch_size and now_ms - self._first_uncut_ms < self._config.batch_timeout_ms:
            return None
        self._first_uncut_ms = None
        return self._outbox.cut(entries_max=self._config.max_batch_size, bytes_max=self._config.max_batch_bytes)

    async def _resend(self, sequence: int) -> None:
        found = await asyncio.to_thread(lambda: self._outbox.unacked(after=sequence - 1, limit=1))
        for batch in found:
            if batch.sequence == sequence:
                await self._send(batch)

    async def _send(self, batch: OutboxBatch) -> None:
        frame = self.session.batch(batch.sequence, batch.payload, entries=batch.entries, now_ms=self._now_ms())
        await self._socket.send(frame)
        self._listener.sent(len(frame))

    async def _settle(self) -> None:
        """Tell the outbox, then the listener, what became of batches."""
        answers, self._answers = self._answers, []
        if not answers:
            return
        await asyncio.to_thread(self._tell_outbox, answers)
        for answer in answers:
            if isinstance(answer, Resolved):
                self._last_ack = max(self._last_ack, answer.sequence)
                self._listener.resolved(answer)
            else:
                self._listener.refused(answer)

    def _tell_outbox(self, answers: list[Resolved | Refusal]) -> None:
        for answer in answers:
            if isinstance(answer, Resolved):
                self._outbox.ack(answer.sequence)
            elif answer.final:
                self._outbox.reject(answer.sequence, f"{answer.reason}: {answer.text}")

    async def _heartbeat(self) -> None:
        pending = await asyncio.to_thread(lambda: self._outbox.pending_entries)
        await self._socket.send(
            self.session.heartbeat(last_ack_sequence=self._last_ack, pending_entries=pending, now_ms=self._now_ms())
        )

    def _due_in_s(self) -> float:
        due_ms = [self.session.due_in_ms(now_ms=self._now_ms())]
        if self._first_uncut_ms is not None:
            due_ms.append(max(1, self._first_uncut_ms + self._config.batch_timeout_ms - self._now_ms()))
        if self._outbox.written_by_others:
            due_ms.append(self._config.capture_poll_interval_ms)
        return min(due_ms) / 1000
