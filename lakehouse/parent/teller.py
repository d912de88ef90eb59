"""Batches of one connection on their way to the journal, and what is said about each: within its limits, or why not."""

from __future__ import annotations

import logging
from collections.abc import Callable

from lakehouse.flush import fuse
from lakehouse.flush.breaker_row import word
from lakehouse.journal.accept import Accepted, Source, Verdict
from lakehouse.journal.intake import Offer
from lakehouse.key_limits import KeyLimits
from lakehouse.limits.allowance import Allowance, payload_bytes_max
from lakehouse.limits.bucket import UNITS
from lakehouse.limits.load import shed_delay_ms
from lakehouse.parent.house import House
from rpc.batch import MESSAGE_BYTES_MAX, BatchFrame, Dialect
from rpc.dolake.limits import WireLimits
from rpc.dolake.refusals import Gauges, Reason, retry_delay_ms
from rpc.failpoints import Failpoint, reach
from rpc.session import ParentSession

log = logging.getLogger(__name__)

STOPS = "this process stops; another one takes over"
MISTAKE = "the batch was not stored, through no fault of its own"

Reply = Callable[[str | bytes], None]


class Teller:
    """For one connection while it is awake. `priority` is the key's word, never the child's."""

    def __init__(
        self, house: House, parent_id: int, reply: Reply, *, child: str | None, limits: KeyLimits, priority: str
    ) -> None:
        settings, now_ms = house.settings, house.now_ms()
        self._house = house
        self._parent_id = parent_id
        self._is_high_priority = priority == "high"
        self._limits = limits
        self._bytes_max = limits.max_payload_bytes or MESSAGE_BYTES_MAX
        self.reply = reply
        self.is_stopping = False
        """Nothing is taken any more."""
        self.is_forgotten = False
        """The journal does not know this child any more."""
        self._has_window = False
        self.allowance = self._new_allowance(limits.burst_capacity, now_ms)
        wire = WireLimits(
            max_payload_size=payload_bytes_max(settings, limits.max_payload_bytes),
            max_events_per_message=settings.max_events_per_message,
            max_event_size=settings.max_event_size,
        )
        self.session = ParentSession(source=child, window_batches_max=settings.window_batches_max, limits=wire)

    def offer(self, frame: BatchFrame, source: Source) -> None:
        """Hand a batch to the journal; its answer follows when it is durable."""
        house = self._house
        reach(Failpoint.RECEIVED)
        if house.intake.has_room(len(frame.payload)):
            house.intake.offer(Offer(source, frame, self._answer))
        else:
            waiting = house.intake.waiting_bytes
            text = f"{waiting} bytes wait for the journal; {len(frame.payload)} more do not fit"
            self.refuse(frame, Reason.BUFFER_FULL, text, max_size=house.settings.intake_bytes_max)

    def is_welcome(self, frame: BatchFrame, now_ms: int) -> bool:
        """Whether this batch may be offered now; if not it was told why."""
        if self.is_stopping:
            self.refuse(frame, Reason.SHUTTING_DOWN, STOPS)
        elif not self.may_speak(now_ms):
            self._house.doorman.tally.messages_rate_limited += 1
            text = f"more than {self.allowance.messages.per_second} messages/s of this connection"
            self.refuse(frame, Reason.RATE_LIMITED, text, self.delay_ms())
        elif len(frame.payload) > self._bytes_max:
            self._house.doorman.tally.payload_rejections += 1
            text = f"payload has {len(frame.payload)} bytes, the access key of this connection allows {self._bytes_max}"
            self.refuse(frame, Reason.PAYLOAD_TOO_LARGE, text, max_size=self._bytes_max)
        elif (delay_ms := self._shed_ms()) is not None:
            self._house.doorman.tally.load_shedding_events += 1
            self.refuse(frame, Reason.LOAD_SHEDDING, fuse.why_shed(self._house.alarms.blown(self._parent_id)), delay_ms)
        else:
            return True
        return False

    def may_speak(self, now_ms: int) -> bool:
        """Take a token. Who speaks the package's dialect has the window of that protocol to send at once."""
        if not self._has_window and self.session.dialect is Dialect.RPC:
            self._open_window(now_ms)
        return self.allowance.take(now_ms)

    def resume(self, allowance: bytes) -> None:
        """Go on where a connection fell asleep; the session knows its dialect already."""
        if self.session.dialect is Dialect.RPC:
            self._open_window(self._house.now_ms())
        self.allowance.unpack(allowance)

    def delay_ms(self) -> int:
        return self.allowance.retry_delay_ms(chance=self._house.chance())

    def say(self, answer: str | bytes, now_ms: int) -> bool:
        """What the session answered by itself: a pong, or why a frame is nothing. False when it was one too many."""
        refused, tally = self.session.refused, self._house.doorman.tally
        if refused is None:
            if self.allowance.take_heartbeat(now_ms):
                self.reply(answer)
            return True
        self.allowance.charge(now_ms)
        self.reply(answer)
        if refused is Reason.RATE_LIMITED:
            tally.messages_rate_limited += 1
        if not refused.is_size_violation:
            return True
        if refused is Reason.EVENT_TOO_LARGE:
            tally.event_size_rejections += 1
        else:
            tally.payload_rejections += 1
        return not self.allowance.violate()

    def too_fast(self, correlation_id: str | None, now_ms: int) -> None:
        """Refuse a message that is no batch, for want of a token."""
        self._house.doorman.tally.messages_rate_limited += 1
        gauges = self._gauges(self.session.dialect, now_ms)
        self.reply(self.session.too_fast(correlation_id, self.delay_ms(), now_ms=now_ms, gauges=gauges))

    def fail(self, frame: str | bytes, now_ms: int) -> None:
        """A mistake of ours about a frame, just caught: it is logged, and the child tries again."""
        self.allowance.charge(now_ms)
        echo, answer = self.session.failed(frame, now_ms=now_ms)
        log.exception("a frame of %r was not understood (%s)", self.session.source, echo.correlation_id)
        self.reply(answer)

    def fail_batch(self, frame: BatchFrame) -> None:
        """A mistake of ours about a batch: it is logged, and the child sends it again."""
        log.exception("batch %d of %r was not taken (%s)", frame.sequence, self.session.source, frame.correlation_id)
        self.refuse(frame, Reason.INTERNAL_ERROR, MISTAKE)

    def refuse(
        self, frame: BatchFrame, reason: Reason, text: str, delay_ms: int | None = None, *, max_size: int | None = None
    ) -> None:
        """Tell that a batch was not taken; the reason knows when to come back, if nothing else is said."""
        now_ms = self._house.now_ms()
        if delay_ms is None:
            delay_ms = retry_delay_ms(reason, refusals=self.allowance.refusals, chance=self._house.chance())
        answer = self.session.nack(
            frame,
            reason,
            text,
            retry_delay_ms=delay_ms,
            now_ms=now_ms,
            max_size=max_size,
            gauges=self._gauges(frame.dialect, now_ms),
        )
        self.reply(answer)

    def _answer(self, frame: BatchFrame, verdict: Verdict) -> None:
        if not isinstance(verdict, Accepted):
            self.refuse(frame, Reason(verdict.reason), verdict.message, max_size=verdict.max_size)
            if verdict.ends_connection and not self.is_forgotten:
                self.is_forgotten = True
                log.warning("child %r or its parent was deleted; its connection ends", self.session.source)
            return
        now_ms = self._house.now_ms()
        answer = self.session.ack(
            frame,
            verdict.status,
            entries=verdict.entries,
            utilization=verdict.utilization,
            now_ms=now_ms,
            gauges=self._gauges(frame.dialect, now_ms),
        )
        self.reply(answer)

    def _gauges(self, dialect: Dialect, now_ms: int) -> Gauges | None:
        """The numbers of an answer in the dialect that has them."""
        if dialect is not Dialect.DOLAKE:
            return None
        left = self.allowance.headroom(now_ms)
        return Gauges(
            limit=left.limit,
            remaining_tokens=left.remaining,
            bucket_capacity=self.allowance.messages.capacity // UNITS,
            reset_at_s=left.reset_at_s,
            time_until_flush_ms=self._house.alarms.time_until_flush_ms(self._parent_id),
            circuit_breaker_state=word.state.value,
            backpressure_threshold=self._house.settings.backpressure_threshold,
        )

    def _shed_ms(self) -> int | None:
        house = self._house
        load = house.load(self._parent_id)
        return shed_delay_ms(load, high_priority=self._is_high_priority, chance=house.chance())

    def _open_window(self, now_ms: int) -> None:
        self._has_window = True
        window = self._house.settings.window_batches_max
        self.allowance = self._new_allowance(self._limits.burst_capacity or window, now_ms)

    def _new_allowance(self, burst: int | None, now_ms: int) -> Allowance:
        per_second = self._limits.messages_per_second
        return Allowance(self._house.settings, messages_per_second=per_second, burst_capacity=burst, now_ms=now_ms)
