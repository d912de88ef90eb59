"""One connection at work: batches from the outbox onto the wire, answers back into the outbox.

A reader and a sender over one Sans-I/O session. It ends with the exception that ended the connection; the client above
opens the next one. Outbox calls run in threads, since each may wait for a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

from websockets.asyncio.client import ClientConnection

from rpc.config import ChildConfig
from rpc.errors import ConnectionError, LakehouseRpcError
from rpc.failpoints import Failpoint, reach
from rpc.forgotten import welcomed
from rpc.listener import Listener
from rpc.messages import NackReason
from rpc.outbox import Outbox, OutboxBatch
from rpc.session import ChildSession, Flushed, Persisted, Refusal, Resolved, Unseen, Welcome
from rpc.shapes import Shape, shape_of

READ_AT_ONCE = 8
"""Unacked batches read from the outbox in one go."""
T = TypeVar("T")


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
        self.session, self.is_welcome = session, False
        self._socket, self._outbox, self._listener = socket, outbox, listener
        self._config, self._cutting = config, cutting
        self._now_ms, self._chance = now_ms, chance
        self._wake = asyncio.Event()
        self._answers: list[Resolved | Refusal] = []
        self._asked: set[int] = set()
        """Batches whose tables this connection was asked for."""
        self._epoch_above = 0
        self._last_sent = self._last_ack = 0
        self._first_uncut_ms: int | None = None
        self._uncut_entries = self._uncut_bytes = 0
        """What waits in no batch, as far as this link knows."""

    @property
    def shape(self) -> Shape | None:
        """The payload to cut for this parent."""
        return shape_of(self.session.terms.encoding)

    def wake(self) -> None:
        """There is something new to look at."""
        self._wake.set()

    def added(self, entries: int, size_bytes: int) -> None:
        """So much more waits uncut. What fills no batch wakes nobody once its timer runs: 0.5 ms saved for each."""
        self._uncut_entries += entries
        self._uncut_bytes += size_bytes
        if self._first_uncut_ms is None or self._is_full():
            self._wake.set()

    async def put(self, frame: str | bytes) -> None:
        """Send a frame. A parent that does not take it within `ack_timeout_ms` is gone: raises ConnectionError."""
        try:
            async with asyncio.timeout(self._config.ack_timeout_ms / 1000):
                await self._socket.send(frame)
        except TimeoutError:
            raise ConnectionError(f"the parent takes no data for {self._config.ack_timeout_ms} ms") from None

    async def request_flush(self, correlation_id: str) -> None:
        await self.put(self.session.flush_request(correlation_id, now_ms=self._now_ms()))

    async def run(self) -> None:
        """Greet, resume, and work until the connection ends. Always raises."""
        await self._greet()
        reader = asyncio.create_task(self._read())
        try:
            await self._send_for_ever(reader)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            with contextlib.suppress(LakehouseRpcError):  # what is not told now is sent again and answered duplicate
                await asyncio.shield(self._settle())

    async def _greet(self) -> None:
        """Say hello until both sides agree on the epoch and on what is durable of it."""
        while (welcome := await self._agreed()) is None:
            await self._renew_epoch()
        self._last_sent = self._last_ack = welcome.resume_sequence
        await asyncio.to_thread(welcomed, self._outbox, welcome, self.session.child_id)
        self.is_welcome = True
        self._tells_persisted = welcome.status.persisted_acks is True
        self._listener.welcomed(welcome)

    async def _renew_epoch(self) -> None:
        async with self._cutting:  # else who is cutting waits for sequences that mean nothing now
            await asyncio.to_thread(lambda: self._outbox.renew_epoch(above=self._epoch_above))
            self._listener.renewed()

    async def _agreed(self) -> Welcome | None:
        """The parent's welcome, or None when what it has of this epoch is not what this file has.

        Then the file came back from a backup: the parent knows batches the file never cut, or knows the last one they
        seem to share with other content. That one is sent again to find out.
        """
        self.session.epoch, last = await asyncio.to_thread(lambda: (self._outbox.epoch, self._outbox.last_sequence))
        async with asyncio.timeout(self._config.handshake_timeout_ms / 1000):
            await self.put(self.session.hello(last_ack_sequence=self._last_ack, now_ms=self._now_ms()))
            welcome = await self._heard(Welcome)
            was_restored = welcome.highest_sequence > last or welcome.highest_epoch > self.session.epoch
            first = 1 if was_restored else welcome.resume_sequence
            shares = await self._shares(first, welcome.highest_sequence)
            if not shares and first > 1:  # what an earlier connection compared before it ended shall not come twice
                await self._shares(1, welcome.highest_sequence)
            if not shares or was_restored:
                self._epoch_above = max(self._epoch_above, welcome.highest_epoch)
                return None
        return welcome

    async def _shares(self, first: int, last: int) -> bool:
        """Send again what both sides may have, one by one; False when the parent has one with other content."""
        while (batch := await self._held(max(first, 1), through=last)) is not None:
            await self._send(batch)
            answer = await self._heard((Resolved, Refusal))
            if isinstance(answer, Refusal):
                if answer.reason is NackReason.INVALID_SEQUENCE:
                    return False
                raise ConnectionError(f"the parent cannot say yet what it has: {answer.text}")
            await asyncio.to_thread(self._outbox.ack, batch.sequence)
            first = batch.sequence + 1
        return True

    async def _heard(self, kind: type[T] | tuple[type[T], ...]) -> T:
        """The next event of this kind."""
        while True:
            event = self.session.receive(await self._socket.recv(), now_ms=self._now_ms(), chance=self._chance())
            if isinstance(event, Flushed):
                self._listener.flushed(event)
            elif isinstance(event, kind):
                return event

    async def _held(self, first: int, *, through: int) -> OutboxBatch | None:
        """The first batch of these sequences that is cut and not acknowledged."""
        found = await asyncio.to_thread(lambda: self._outbox.unacked(after=first - 1, limit=1))
        return found[0] if found and found[0].sequence <= through else None

    async def _read(self) -> None:
        async for frame in self._socket:
            event = self.session.receive(frame, now_ms=self._now_ms(), chance=self._chance())
            if isinstance(event, Flushed):
                self._listener.flushed(event)
            elif isinstance(event, Persisted):
                self._listener.persisted(event)
            elif isinstance(event, Unseen):
                self._listener.unseen(event)
            elif isinstance(event, (Resolved, Refusal)):
                self._answers.append(event)
                self._wake.set()

    async def _send_for_ever(self, reader: asyncio.Task[None]) -> None:
        while True:
            self._wake.clear()
            await self._settle()
            await self._ask_for_tables()
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
        """Send the next batches in order, those cut before and then a new cut. False when there is nothing now."""
        batches = await self._unsent()
        if not batches:
            async with self._cutting:
                await asyncio.to_thread(self._cut_if_due)
            batches = await self._unsent()  # others cut too: only the outbox knows what comes next
        for batch in batches:
            self._last_sent = batch.sequence
            await self._send(batch)
        return bool(batches)

    async def _unsent(self) -> list[OutboxBatch]:
        limit = min(READ_AT_ONCE, self.session.room(now_ms=self._now_ms()))

        def read() -> list[OutboxBatch]:
            found = self._outbox.unacked(after=self._last_sent, limit=limit)
            self._outbox.check_epoch(self.session.epoch)  # that in which they were read
            return found

        return await asyncio.to_thread(read)

    def _cut_if_due(self) -> None:
        """Make a batch of what waits, when there is enough of it or it waited long enough."""
        now_ms, config = self._now_ms(), self._config
        self._uncut_entries, self._uncut_bytes = self._outbox.uncut_entries(), self._outbox.uncut_bytes()
        if not self._uncut_entries:
            self._first_uncut_ms = None
            return
        if self._first_uncut_ms is None:
            self._first_uncut_ms = now_ms
        if not self._is_full() and now_ms - self._first_uncut_ms < config.batch_timeout_ms:
            return
        self._first_uncut_ms = None
        self._outbox.cut(entries_max=config.max_batch_size, bytes_max=config.max_batch_bytes, shape=self.shape)

    def _is_full(self) -> bool:
        return self._uncut_entries >= self._config.max_batch_size or self._uncut_bytes >= self._config.max_batch_bytes

    async def _resend(self, sequence: int) -> None:
        batch = await self._held(sequence, through=sequence)
        if batch is None:
            self.session.forget(sequence)
        else:
            await self._send(batch)

    async def _send(self, batch: OutboxBatch) -> None:
        frame = self.session.batch(
            batch.sequence, batch.payload, entries=batch.entries, now_ms=self._now_ms(), encoding=batch.encoding
        )
        self._listener.sent(batch.sequence, len(frame))
        await self.put(frame)
        reach(Failpoint.SENT)

    async def _ask_for_tables(self) -> None:
        """Have the parent say when batches are in their tables; a new connection asks for all of them again."""
        watched = self._listener.watched()
        if watched and not self._tells_persisted:
            self._listener.tables_untold()
            return
        for sequence in sorted(watched - self._asked):
            await self.put(self.session.persisted_request(sequence, now_ms=self._now_ms()))
        self._asked = watched

    async def _settle(self) -> None:
        """Tell the outbox, then the listener, what became of batches, one by one and in the order of the answers."""
        while self._answers:
            answer = self._answers[0]
            if isinstance(answer, Refusal) and answer.reason is NackReason.INVALID_SEQUENCE:
                await self._renew_epoch()
                raise ConnectionError(f"{answer.text}; the outbox began a new epoch and sends again what it keeps")
            self._listener.holds(await asyncio.to_thread(self._tell_outbox, answer))
            del self._answers[0]
            if isinstance(answer, Resolved):
                self._last_ack = max(self._last_ack, answer.sequence)
                self._listener.resolved(answer)
            else:
                self._listener.refused(answer)
            self._listener.paused(self.session.is_paused)

    def _tell_outbox(self, answer: Resolved | Refusal) -> float:
        """Returns how full it is then."""
        self._outbox.check_epoch(self.session.epoch)
        if isinstance(answer, Resolved):
            self._outbox.ack(answer.sequence)
        elif answer.final:
            self._outbox.reject(answer.sequence, f"{answer.reason}: {answer.text}")
        return self._outbox.pending_bytes / self._outbox.bytes_max

    async def _heartbeat(self) -> None:
        pending = await asyncio.to_thread(lambda: self._outbox.pending_entries)
        known = {"last_ack_sequence": self._last_ack, "pending_entries": pending}
        await self.put(self.session.heartbeat(**known, now_ms=self._now_ms()))

    def _due_in_s(self) -> float:
        due_ms = [self.session.due_in_ms(now_ms=self._now_ms())]
        if self._first_uncut_ms is not None and self.session.room(now_ms=self._now_ms()):
            due_ms.append(max(1, self._first_uncut_ms + self._config.batch_timeout_ms - self._now_ms()))
        if self._outbox.written_by_others:
            due_ms.append(self._config.capture_poll_interval_ms)
        return min(due_ms) / 1000
