"""Group commit: one writer thread takes what waits from all sockets of the process, commits once, answers all.

A batch alone costs a transaction and an fsync; 64 together cost hardly more. The loop hands batches in and gets
verdicts back by call_soon_threadsafe, once per group.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import DatabaseError, InterfaceError, OperationalError, connection

from lakehouse.conf import Settings
from lakehouse.journal.accept import Refused, Source, Verdict, accept
from lakehouse.journal.store import Buffer
from lakehouse.metrics import COMMIT_SECONDS, Durations
from rpc.batch import BatchFrame
from rpc.failpoints import Failpoint, reach
from rpc.messages import NackReason

log = logging.getLogger(__name__)

STOPPED = "this process stops; another one takes over"
SAY_EVERY_S = 10


class Offer(NamedTuple):
    """A batch of a connection, and who wants to hear the verdict (called in the event loop)."""

    source: Source
    frame: BatchFrame
    answer: Callable[[BatchFrame, Verdict], None]


@dataclass(frozen=True, slots=True)
class Job:
    """Other database work for the writer thread: a connection's first look at its child, say."""

    work: Callable[[], Any]
    done: asyncio.Future[Any]


class Intake:
    """One per process and event loop. `on_commit` hears of the buffers of every parent a group touched."""

    def __init__(
        self,
        settings: Settings,
        *,
        now_ms: Callable[[], int],
        on_commit: Callable[[dict[int, Buffer]], None],
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._settings = settings
        self._now_ms = now_ms
        self._on_commit = on_commit
        self._clock_s = clock_s
        self.commits = Durations(COMMIT_SECONDS)
        """How long the group commits took."""
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Offer | Job] = deque()
        self._waiting_bytes = 0
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._unsaid = 0
        """Batches refused since it was logged last that the journal is not available."""
        self._said_s: float | None = None

    @property
    def waiting_bytes(self) -> int:
        return self._waiting_bytes

    def has_room(self, size_bytes: int) -> bool:
        return self._waiting_bytes + size_bytes <= self._settings.intake_bytes_max

    def offer(self, offer: Offer) -> None:
        """Hand in a batch; the caller has asked `has_room`."""
        self._put(offer, len(offer.frame.payload))

    async def run(self, work: Callable[[], Any]) -> Any:
        """Run database work in the writer thread and return what it returns; a DatabaseError once it has stopped."""
        job = Job(work, self._loop.create_future())
        self._put(job, 0)
        return await job.done

    def post(self, work: Callable[[], Any]) -> None:
        """Run database work in the writer thread; nobody waits for it, a failure is logged."""
        job = Job(work, self._loop.create_future())
        job.done.add_done_callback(_log_failure)
        self._put(job, 0)

    async def drained(self) -> None:
        """Everything handed in before this call is answered."""
        await self.run(lambda: None)

    async def stop(self) -> None:
        """Commit and answer everything handed in, then end the thread. What comes later is refused."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _put(self, item: Offer | Job, size_bytes: int) -> None:
        with self._wake:
            if self._stopping:
                self._loop.call_soon_threadsafe(self._turn_away, item)
                return
            self._waiting.append(item)
            self._waiting_bytes += size_bytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="evodb-intake", daemon=True)
                self._thread.start()
            self._wake.notify()

    def _turn_away(self, item: Offer | Job) -> None:
        if isinstance(item, Job):
            _settle(item.done, None, OperationalError(STOPPED))
        else:
            refusal = Refused(NackReason.SHUTTING_DOWN, STOPPED)
            self._deliver([item], [refusal], {})

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            if isinstance(group, Job):
                self._work(group)
            else:
                self._commit(group)
        connection.close()

    def _next_group(self) -> list[Offer] | Job | None:
        """A job, or the batches in front of the next job up to the limits of a group; None when stopped and empty."""
        with self._wake:
            while not self._waiting:
                if self._stopping:
                    return None
                self._wake.wait()
            group: list[Offer] = []
            size_bytes = 0
            while self._waiting and len(group) < self._settings.group_batches_max:
                item = self._waiting[0]
                if isinstance(item, Job):
                    if group:
                        break
                    self._waiting.popleft()
                    return item
                if group and size_bytes + len(item.frame.payload) > self._settings.group_bytes_max:
                    break
                size_bytes += len(item.frame.payload)
                group.append(item)
                self._waiting.popleft()
            self._waiting_bytes -= size_bytes
            return group

    def _commit(self, group: list[Offer]) -> None:
        began_s = self._clock_s()
        try:
            verdicts, buffers = accept([(offer.source, offer.frame) for offer in group], now_ms=self._now_ms())
        except (OperationalError, InterfaceError) as exc:
            self._say(len(group), exc, now_s=began_s)
            connection.close()
            self._refuse(group, "the journal is not available")
        except Exception as exc:
            if len(group) > 1:
                for offer in group:  # one of them is to blame, the others shall not pay for it
                    self._commit([offer])
                return
            frame = group[0].frame
            log.exception("batch %s of %r was not stored (%s)", frame.sequence, frame.source, frame.correlation_id)
            if isinstance(exc, DatabaseError):
                connection.close()
            self._refuse(group, f"the batch was not stored: {type(exc).__name__}")
        else:
            self.commits.add(self._clock_s() - began_s)
            reach(Failpoint.JOURNALLED)
            self._answer(group, verdicts, buffers)

    def _say(self, batches: int, exc: Exception, *, now_s: float) -> None:
        """Children try again each second, and a disk that is full needs no line for each of them."""
        self._unsaid += batches
        if self._said_s is None or now_s - self._said_s >= SAY_EVERY_S:
            log.error("journal is not available, %d batches refused for now: %s", self._unsaid, exc)
            self._said_s, self._unsaid = now_s, 0

    def _refuse(self, group: list[Offer], message: str) -> None:
        refusal = Refused(NackReason.INTERNAL_ERROR, message)
        self._answer(group, [refusal] * len(group), {})

    def _answer(self, group: list[Offer], verdicts: Sequence[Verdict], buffers: dict[int, Buffer]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, group, verdicts, buffers)

    def _deliver(self, group: list[Offer], verdicts: Sequence[Verdict], buffers: dict[int, Buffer]) -> None:
        if buffers:
            self._tell(buffers)  # first, for an answer says when what it stored is flushed
        for offer, verdict in zip(group, verdicts, strict=True):
            try:
                offer.answer(offer.frame, verdict)
            except Exception:  # one connection's trouble; the others of the group hear their answers
                log.exception("the answer to batch %s of %r was not given", offer.frame.sequence, offer.frame.source)

    def _tell(self, buffers: dict[int, Buffer]) -> None:
        try:
            self._on_commit(buffers)
        except Exception:  # whoever wants to hear of commits; the batches are durable, and their children hear it
            log.exception("a commit was not told")

    def _work(self, job: Job) -> None:
        try:
            result = job.work()
        except Exception as exc:
            connection.close()
            self._loop.call_soon_threadsafe(_settle, job.done, None, exc)
        else:
            self._loop.call_soon_threadsafe(_settle, job.done, result, None)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _log_failure(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("a note in the journal was not made: %s", error)
