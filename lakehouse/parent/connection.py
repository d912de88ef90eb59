"""One child's connection, whatever carries it: frames in, answers out. It decides nothing about the data.

`take` is asked for every frame and does at once what needs no waiting; the rest it returns to be awaited before the
next frame. It can be put to sleep as a few bytes (`attachment`) and woken from them, in this process or another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from django.db import Error as DatabaseError
from django.db import IntegrityError
from msgspec import UNSET

from lakehouse.journal.accept import Source
from lakehouse.models import Parent
from lakehouse.parent import arrivals, flush_requests, greeting, persisted
from lakehouse.parent.arrivals import Admitted, Arrival, NoRoom
from lakehouse.parent.attachment import Attachment
from lakehouse.parent.house import House
from lakehouse.parent.teller import STOPS, Reply, Teller
from rpc import negotiation
from rpc.batch import BatchFrame, Dialect
from rpc.dolake.refusals import Reason
from rpc.messages import ConnectMessage, DisconnectMessage, FlushRequestMessage, PersistedRequestMessage

log = logging.getLogger(__name__)

NORMAL, GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR, TRY_AGAIN_LATER = 1000, 1001, 1008, 1011, 1013
ACCESS_CHECK_MS = 10_000
"""A key that was revoked or expired ends its open connections within this, at the next batch."""
DELETED = "this child or its parent was deleted; connect again"
TOO_LARGE_TOO_OFTEN = "Too many size violations"

Claim = Callable[[str], None]


class Closed(Exception):
    """This side ends the connection with `code`."""

    def __init__(self, code: int, reason: str = "") -> None:
        self.code = code
        self.reason = reason


class Connection:
    """Awake. `claim` hears which child it is, once its key says that it may be."""

    def __init__(
        self,
        house: House,
        admitted: Admitted,
        reply: Reply,
        *,
        child: str | None,
        shard: str | None,
        claim: Claim = lambda _: None,
    ) -> None:
        self.active_ms = self._checked_ms = house.now_ms()
        self._house = house
        self._admitted = admitted
        self._claim = claim
        self._shard = shard
        self._source: Source | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._teller = Teller(
            house, admitted.parent_id, reply, child=child, limits=admitted.limits, priority=admitted.priority
        )
        self.session = self._teller.session

    @property
    def has_said_too_much(self) -> bool:
        """It may say nothing more just now, and says it all the same."""
        return self._teller.allowance.is_spent

    @property
    def child_id(self) -> int | None:
        return None if self._source is None else self._source.child_id

    def take(self, frame: str | bytes) -> Awaitable[None] | None:
        """Serve a frame; what is returned has to be awaited before the next one. Raises Closed."""
        now_ms = self.active_ms = self._house.now_ms()
        self._house.lag.probe()
        if self._teller.is_forgotten:
            raise Closed(POLICY_VIOLATION, DELETED)
        try:
            step = self.session.receive(frame, now_ms=now_ms)
        except Exception:
            self._teller.fail(frame, now_ms)
            return None
        if isinstance(step, BatchFrame):
            return self._batch(step, now_ms)
        if isinstance(step, (str, bytes)):
            if not self._teller.say(step, now_ms):
                self._house.doorman.tally.connections_closed += 1
                raise Closed(POLICY_VIOLATION, TOO_LARGE_TOO_OFTEN)
            return None
        if isinstance(step, DisconnectMessage):
            raise Closed(NORMAL)
        if self._teller.is_stopping:
            return None
        if isinstance(step, PersistedRequestMessage):
            return self._watch(step)
        if not self._teller.may_speak(now_ms):
            self._teller.too_fast(None if isinstance(step, ConnectMessage) else step.correlation_id or None, now_ms)
            return None
        if isinstance(step, ConnectMessage):
            return self._connect(step)
        if self._is_check_due(now_ms):
            return self._check_and_flush(step)
        self._flush(step)
        return None

    async def drained(self) -> None:
        """Everything that was handed in here is answered."""
        if self.session.unanswered:
            await self._house.intake.drained()

    def attachment(self) -> Attachment | None:
        """What to remember while asleep; None while something is under way."""
        is_flushing = self._flushing is not None and not self._flushing.done()
        if self.session.unanswered or is_flushing or self._house.persisted.is_watched_by(self):
            return None
        source, accepted = self._source, self.session.accepted
        return Attachment(
            parent_id=self._admitted.parent_id,
            key_id=self._admitted.key_id,
            child_id=self.child_id,
            epoch=None if source is None else source.epoch,
            own_epoch=source is not None and source.own_epoch,
            source=self.session.source if source is None else None,
            shard=self._shard if source is None else None,
            dialect=self.session.dialect.value,
            binary_replies=self.session.binary_replies,
            encodings=None if accepted.encodings is UNSET else accepted.encodings,
            compressions=None if accepted.compressions is UNSET else accepted.compressions,
            allowance=self._teller.allowance.pack(self._house.now_ms()),
            checked_ms=self._checked_ms,
        )

    @classmethod
    async def wake(cls, house: House, kept: Attachment, reply: Reply, *, claim: Claim = lambda _: None) -> Connection:
        """A connection that slept, as if it had not. Raises Closed when key or child is gone, or the database away."""
        now_ms = house.now_ms()
        try:
            found: arrivals.Returned | None = await house.intake.run(lambda: arrivals.come_back(kept, now_ms=now_ms))
        except DatabaseError as exc:
            log.error("cannot wake a connection, its child is asked to come back: %s", exc)
            raise Closed(TRY_AGAIN_LATER) from None
        if found is None:
            raise Closed(POLICY_VIOLATION)
        admitted = found.admitted
        woken = cls(house, admitted, reply, child=found.child, shard=found.shard, claim=claim)
        if kept.child_id is not None:
            woken._source = Source(kept.parent_id, kept.child_id, kept.epoch, kept.own_epoch)
        session = woken.session
        session.dialect, session.binary_replies = Dialect(kept.dialect), kept.binary_replies
        session.accepted = negotiation.Accepted(
            UNSET if kept.encodings is None else kept.encodings,
            UNSET if kept.compressions is None else kept.compressions,
        )
        woken._teller.resume(kept.allowance)
        return woken

    def stop(self) -> None:
        """Take nothing any more; what comes is told to come back."""
        self._teller.is_stopping = True

    def leave(self) -> None:
        """Nobody waits for an answer any more."""
        if self._flushing is not None:
            self._flushing.cancel()
        self._house.persisted.forget(self)

    def _batch(self, frame: BatchFrame, now_ms: int) -> Awaitable[None] | None:
        try:
            if not self._teller.is_welcome(frame, now_ms):
                return None
            if self._source is None:
                return self._after(self._first_batch(frame), frame)
            if self._is_check_due(now_ms):
                return self._after(self._check_access(), frame)
            self._teller.offer(frame, self._source)
        except Exception:
            self._teller.fail_batch(frame)
        return None

    async def _after(self, looked_up: Awaitable[bool], frame: BatchFrame) -> None:
        """Offer a batch whose child had to be looked up; whatever comes in between, the batch has its answer."""
        try:
            if await looked_up:
                assert self._source is not None
                self._teller.offer(frame, self._source)
        except asyncio.CancelledError:
            self.stop()
            self._teller.refuse(frame, Reason.SHUTTING_DOWN, STOPS)
            raise
        except Closed:
            raise
        except Exception:
            self._teller.fail_batch(frame)

    async def _connect(self, message: ConnectMessage) -> None:
        try:
            arrival = await self._arrive(message.source_shard_name or self._shard, message.epoch or None)
            held = await self._house.intake.run(lambda: arrivals.held(self._admitted.parent_id))
        except DatabaseError as exc:
            log.error("cannot open child %r, it is asked to come back: %s", self.session.source, exc)
            raise Closed(TRY_AGAIN_LATER) from None
        status = greeting.status(held, arrival, self.session.accepted, now_ms=self._house.now_ms())
        self._teller.reply(self.session.say(status))

    async def _first_batch(self, frame: BatchFrame) -> bool:
        """A batch without a `connect` before it: a child that keeps no epoch."""
        try:
            await self._arrive(frame.shard or self._shard, None)
        except DatabaseError as exc:
            log.error("cannot open child %r, its batch is refused for now: %s", self.session.source, exc)
            self._teller.refuse(frame, Reason.INTERNAL_ERROR, "the journal is not available")
            return False
        return True

    async def _arrive(self, shard: str | None, epoch: int | None) -> Arrival:
        """Become the child the session names. Raises Closed, DatabaseError."""
        name, now_ms, admitted = self.session.source, self._house.now_ms(), self._admitted
        assert name is not None
        try:
            arrival: Arrival | NoRoom | None = await self._house.intake.run(
                lambda: arrivals.arrive(admitted, name, shard=shard, epoch=epoch, now_ms=now_ms)
            )
        except (IntegrityError, Parent.DoesNotExist):
            log.warning("child %r came to a parent that was deleted", name)
            raise Closed(POLICY_VIOLATION, DELETED) from None
        if isinstance(arrival, NoRoom):
            raise Closed(POLICY_VIOLATION, arrival.text)
        if arrival is None:
            log.warning("child %r is not one its access key may write as", name)
            raise Closed(POLICY_VIOLATION)
        if self._source is None:
            self._house.presence.arrived(arrival.source.child_id)
            self._claim(name)
        self._source = arrival.source
        return arrival

    def _is_check_due(self, now_ms: int) -> bool:
        return self._admitted.key_id is not None and now_ms - self._checked_ms >= ACCESS_CHECK_MS

    async def _check_and_flush(self, message: FlushRequestMessage) -> None:
        await self._check_access()
        self._flush(message)

    async def _check_access(self) -> bool:
        """True: the key still opens this door, or nobody can say. Raises Closed."""
        self._checked_ms = now_ms = self._house.now_ms()
        admitted, name = self._admitted, self.session.source
        try:
            allowed = await self._house.intake.run(lambda: arrivals.may_write(admitted, name, now_ms=now_ms))
        except DatabaseError:
            allowed = True
        if not allowed:
            log.warning("the access key of child %r was revoked or expired", name)
            raise Closed(POLICY_VIOLATION)
        return True

    def _flush(self, message: FlushRequestMessage) -> None:
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_and_tell(message))
        else:
            self._teller.reply(self.session.say(flush_requests.busy(message, now_ms=self._house.now_ms())))

    async def _flush_and_tell(self, message: FlushRequestMessage) -> None:
        answer = await flush_requests.serve(message, self._admitted.parent_id, self._house)
        self._teller.reply(self.session.say(answer))

    async def _watch(self, message: PersistedRequestMessage) -> None:
        """Say when this batch is in its tables. It waits for a token: who asks does so once and is not refused."""
        while not self._teller.may_speak(now_ms := self._house.now_ms()):
            await asyncio.sleep(self._teller.allowance.messages.wait_ms(now_ms, tokens=1) / 1000)
        if self._is_check_due(now_ms):
            await self._check_access()
        source, sequence, batch_id = self._source, message.sequence_number, None
        if source is not None:
            try:
                batch_id = await self._house.intake.run(lambda: persisted.batch_of(source, sequence))
            except DatabaseError as exc:
                log.error("cannot look for batch %d of %r, it is asked to come back: %s", sequence, source, exc)
                raise Closed(TRY_AGAIN_LATER) from None
        if batch_id is None:
            self._teller.reply(self.session.never_seen(sequence, now_ms=self._house.now_ms()))
            return
        if not self._house.persisted.watch(batch_id, self, sequence, self._tell_persisted):
            log.warning("child %r waits for the tables of more batches than anybody may", self.session.source)
            raise Closed(TRY_AGAIN_LATER)

    def _tell_persisted(self, sequence: int, path: str) -> None:
        self._teller.reply(self.session.persisted(sequence, path, now_ms=self._house.now_ms()))
