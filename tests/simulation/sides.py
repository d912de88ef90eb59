"""Both ends of a wire that is two lists: what the shells around the sessions do, in steps that somebody else takes.

The outbox is a real file, the journal the real database; time is an argument. A child's end that is cut hears nothing
any more, but what it had said may still arrive, as from a socket buffer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from django.db import transaction

from lakehouse.journal.accept import Accepted, Source, Verdict, accept
from lakehouse.parent import arrivals, greeting
from lakehouse.parent.arrivals import Admitted, Arrival
from rpc import batch
from rpc.batch import BatchFrame
from rpc.config import ChildConfig
from rpc.dolake.refusals import Reason, retry_delay_ms
from rpc.entries import RawEntry
from rpc.messages import ConnectMessage, NackReason
from rpc.outbox import Outbox, OutboxBatch
from rpc.protocol import read
from rpc.session import ChildSession, ParentSession, Refusal, Resolved, Welcome
from tests.builders import NOW_MS

Frame = str | bytes
WINDOW_BATCHES_MAX = 100


def entry(number: int, *, timestamp_ms: int) -> RawEntry:
    table = b"orders" if number % 3 else b"items"
    return RawEntry(0, timestamp_ms, 0, table, b"%d" % number, b"", b'{"n":%d}' % number)


def numbers_of(frame: BatchFrame) -> list[int]:
    return [json.loads(one.after)["n"] for one in batch.raw_entries(frame)]


@dataclass(eq=False)
class Line:
    """One connection. `carried` collects the numbers of all entries that ever left."""

    name: str
    carried: set[int]
    session: ParentSession
    source: Source | None = None
    up: list[Frame] = field(default_factory=list)
    down: list[Frame] = field(default_factory=list)
    is_open: bool = True

    def say(self, frame: Frame) -> None:
        self.up.append(frame)
        if isinstance(frame, bytes):
            message = read(frame)
            assert isinstance(message, BatchFrame)
            self.carried.update(numbers_of(message))

    def cut(self) -> None:
        self.is_open = False
        self.down.clear()


class Phase(Enum):
    AWAY = auto()
    GREETING = auto()
    COMPARING = auto()
    """What both sides may have is sent again, one by one."""
    WORKING = auto()


class ChildSide:
    """The pure half of a child and the shell that rpc.link is. Its timers follow `passed_ms`."""

    def __init__(
        self,
        name: str,
        path: Path,
        config: ChildConfig,
        *,
        dial: Callable[[], Line],
        now_ms: Callable[[], int],
        passed_ms: Callable[[], int],
    ) -> None:
        self.name, self.path, self.config = name, path, config
        self._dial, self._now_ms = dial, lambda: passed_ms() + NOW_MS
        self.outbox = Outbox(path, now_ms=now_ms)
        self.line: Line | None = None
        self._phase = Phase.AWAY
        self._last_sent = self._last_ack = 0

    def append(self, numbers: list[int]) -> None:
        self.outbox.append([entry(number, timestamp_ms=self._now_ms()) for number in numbers])

    def cut(self, entries_max: int) -> None:
        self.outbox.cut(entries_max=entries_max, bytes_max=self.config.max_batch_bytes)

    def step(self) -> None:
        """Whatever is due now."""
        now_ms = self._now_ms()
        if self.line is None:
            self._connect()
        elif self._session.is_dead(now_ms=now_ms) or self._waits_too_long():
            self.hang_up()
        elif self._phase is Phase.WORKING:
            for sequence in self._session.overdue(now_ms=now_ms):
                self._resend(sequence)
            self._send_some()
            if self._session.wants_heartbeat(now_ms=now_ms):
                known = {"last_ack_sequence": self._last_ack, "pending_entries": self.outbox.pending_entries}
                self._say(self._session.heartbeat(**known, now_ms=now_ms))

    def hear(self, frames: int) -> None:
        """The next frames from the parent."""
        for _ in range(frames):
            if self.line is not None and self.line.down:
                self._hear()

    def _hear(self) -> None:
        assert self.line is not None
        event = self._session.receive(self.line.down.pop(0), now_ms=self._now_ms(), chance=0.5)
        if self._phase is Phase.GREETING and isinstance(event, Welcome):
            self._compare(event)
        elif self._phase is Phase.COMPARING and isinstance(event, (Resolved, Refusal)):
            self._compared(event)
        elif self._phase is Phase.WORKING and isinstance(event, (Resolved, Refusal)):
            self._settle(event)

    def hang_up(self) -> None:
        if self.line is not None:
            self.line.cut()
        self.line, self._phase = None, Phase.AWAY

    def close(self) -> None:
        self.hang_up()
        self.outbox.close()

    def _connect(self) -> None:
        self.line = self._dial()
        self._session = ChildSession(child_id=self.name, epoch=0, config=self.config)
        self._greet()

    def _greet(self) -> None:
        self._session.epoch = self.outbox.epoch
        self._phase, self._greeted_ms = Phase.GREETING, self._now_ms()
        self._say(self._session.hello(last_ack_sequence=self._last_ack, now_ms=self._now_ms()))

    def _waits_too_long(self) -> bool:
        waits = self._phase in (Phase.GREETING, Phase.COMPARING)
        return waits and self._now_ms() - self._greeted_ms >= self.config.handshake_timeout_ms

    def _compare(self, welcome: Welcome) -> None:
        self._welcome = welcome
        last, epoch = self.outbox.last_sequence, self.outbox.epoch
        self._was_restored = welcome.highest_sequence > last or welcome.highest_epoch > epoch
        self._compare_behind(0 if self._was_restored else max(0, welcome.resume_sequence - 1))

    def _compare_behind(self, sequence: int) -> None:
        found = self.outbox.unacked(after=sequence, limit=1)
        if found and found[0].sequence <= self._welcome.highest_sequence:
            self._phase = Phase.COMPARING
            self._send(found[0])
        elif self._was_restored:
            self._begin_epoch()
        else:
            self._welcomed()

    def _compared(self, answer: Resolved | Refusal) -> None:
        if isinstance(answer, Resolved):
            self.outbox.ack(answer.sequence)
            self._compare_behind(answer.sequence)
        elif answer.reason is not NackReason.INVALID_SEQUENCE:
            self.hang_up()
        elif self._was_restored:
            self._begin_epoch()
        else:
            self._was_restored = True
            self._compare_behind(0)

    def _begin_epoch(self) -> None:
        self.outbox.renew_epoch(above=self._welcome.highest_epoch)
        self._greet()

    def _welcomed(self) -> None:
        self._last_sent = self._last_ack = self._welcome.resume_sequence
        self.outbox.ack_through(self._welcome.resume_sequence)
        self._phase = Phase.WORKING

    def _settle(self, answer: Resolved | Refusal) -> None:
        if isinstance(answer, Resolved):
            self.outbox.ack(answer.sequence)
            self._last_ack = max(self._last_ack, answer.sequence)
        elif answer.reason is NackReason.INVALID_SEQUENCE:
            self.outbox.renew_epoch()
            self.hang_up()
        elif answer.final:
            self.outbox.reject(answer.sequence, f"{answer.reason}: {answer.text}")

    def _send_some(self) -> None:
        while room := self._session.room(now_ms=self._now_ms()):
            batches = self.outbox.unacked(after=self._last_sent, limit=room)
            if not batches and self.outbox.uncut_entries():
                self.cut(self.config.max_batch_size)
                batches = self.outbox.unacked(after=self._last_sent, limit=room)
            if not batches:
                return
            for one in batches:
                self._last_sent = one.sequence
                self._send(one)

    def _resend(self, sequence: int) -> None:
        held = self._held(sequence)
        if held is None:
            self._session.forget(sequence)
        else:
            self._send(held)

    def _held(self, sequence: int) -> OutboxBatch | None:
        found = self.outbox.unacked(after=sequence - 1, limit=1)
        return found[0] if found and found[0].sequence == sequence else None

    def _send(self, one: OutboxBatch) -> None:
        self._say(self._session.batch(one.sequence, one.payload, entries=one.entries, now_ms=self._now_ms()))

    def _say(self, frame: Frame) -> None:
        assert self.line is not None
        self.line.say(frame)


class ParentSide:
    """Sessions, journal and the shell that the consumer and the intake are, without their waiting."""

    def __init__(self, parent_id: int, *, now_ms: Callable[[], int]) -> None:
        self._admitted = Admitted(parent_id, None)
        self._now_ms = now_ms
        self.lines: list[Line] = []

    def dial(self, name: str, carried: set[int]) -> Line:
        session = ParentSession(source=None, window_batches_max=WINDOW_BATCHES_MAX)
        self.lines.append(Line(name, carried, session))
        return self.lines[-1]

    def take(self, lines: list[Line], *, keep: bool = True, answer: bool = True) -> None:
        """Read the next frame of each line; batches that come together share a transaction.

        A parent that dies keeps the last transaction or not, and answers nobody.
        """
        group: list[tuple[Line, BatchFrame]] = []
        for line in lines:
            step = line.session.receive(line.up.pop(0), now_ms=self._now_ms())
            if isinstance(step, BatchFrame):
                group.append((line, step))
            elif isinstance(step, ConnectMessage):
                self._commit(group)
                group = []
                self._welcome(line, step)
            else:
                assert isinstance(step, (str, bytes)), f"the parent understood {step}"
                self._answer(line, step)
        self._commit(group, keep=keep, answer=answer)

    def refuse(self, line: Line, reason: NackReason) -> None:
        """The next frame is a batch that nobody looks at: too much waits, or the database is away."""
        if line.up and isinstance(line.up[0], bytes):
            step = line.session.receive(line.up.pop(0), now_ms=self._now_ms())
            assert isinstance(step, BatchFrame)
            now_ms = self._now_ms()
            self._answer(line, line.session.nack(step, reason, "not now", retry_delay_ms=100, now_ms=now_ms))

    def die(self) -> None:
        for line in self.lines:
            line.cut()
        self.lines = []

    def _welcome(self, line: Line, message: ConnectMessage) -> None:
        arrival = arrivals.arrive(
            self._admitted, message.source_do_id, shard=None, epoch=message.epoch or None, now_ms=self._now_ms()
        )
        assert isinstance(arrival, Arrival)
        line.source = arrival.source
        held, accepted = arrivals.held(self._admitted.parent_id), line.session.accepted
        status = greeting.status(held, arrival, accepted, now_ms=self._now_ms())
        self._answer(line, line.session.say(status))

    def _commit(self, group: list[tuple[Line, BatchFrame]], *, keep: bool = True, answer: bool = True) -> None:
        if not group:
            return
        with transaction.atomic():
            verdicts, _ = accept([(_source(line), frame) for line, frame in group], now_ms=self._now_ms())
            transaction.set_rollback(not keep)
        for (line, frame), verdict in zip(group, verdicts, strict=True):
            if answer:
                self._answer(line, self._reply(line.session, frame, verdict))

    def _reply(self, session: ParentSession, frame: BatchFrame, verdict: Verdict) -> Frame:
        now_ms = self._now_ms()
        if isinstance(verdict, Accepted):
            entries, utilization = verdict.entries, verdict.utilization
            return session.ack(frame, verdict.status, entries=entries, utilization=utilization, now_ms=now_ms)
        delay_ms = retry_delay_ms(Reason(verdict.reason), refusals=0, chance=0)
        return session.nack(frame, verdict.reason, verdict.message, retry_delay_ms=delay_ms, now_ms=now_ms)

    def _answer(self, line: Line, frame: Frame) -> None:
        if line.is_open:
            line.down.append(frame)


def _source(line: Line) -> Source:
    assert line.source is not None, "a batch came before its hello"
    return line.source
