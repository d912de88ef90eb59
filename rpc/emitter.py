"""EventEmitter: events of an application, durable here and then at the parent, over HTTP.

    emit ─▶ outbox ─ flush ─▶ POST /ingest ─ 2xx ─▶ gone
                        ▲           └─ no ─▶ alarm, min(1000 · 2^n, 60 000) ms and up to a second
                        └──── the alarm

`emit` only writes to the outbox, 0.1 ms with its fsync, so it may be called in a view, a task, a script or a coroutine.
A daemon thread sends; it begins with the first event, and again in a process that was forked. An event has an id and a
batch has one, both written down before they are sent: whatever dies, each event is stored once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from rpc import event_aside
from rpc.clock import now_ms as wall_clock_ms
from rpc.config import EventEmitterConfig
from rpc.event_outbox import EventBatch, EventOutbox, SetAside, body_of
from rpc.http import RETRY_AFTER_MS_MAX, Answer, post

__all__ = ["EventEmitter", "RetryQueueStats"]

log = logging.getLogger(__name__)

FIRST_BACKOFF_MS, BACKOFF_MS_MAX, JITTER_MS = 1000, 60_000, 1000
DOUBLINGS_MAX = 16
REFUSED = (400, 413, 422)
"""The batch is at fault, so that trying it again as it is does not help."""
Change = Literal["insert", "update", "delete"]
Post = Callable[[str, bytes, Mapping[str, str], float], Answer]


@dataclass(frozen=True, slots=True)
class RetryQueueStats:
    pending: int
    set_aside: int
    dropped: int
    """Since the outbox began."""
    consecutive_failures: int
    next_alarm_ms: int | None
    oldest_ms: int | None
    set_aside_dropped: int = 0
    """Of those set aside, since the outbox began."""


class EventEmitter:
    """`source` is who does it: an id, or `{"id": ..., "name": ..., "class": ...}`. `storage` is the outbox, or where
    its file is. `on_set_aside_dropped` hears of refused events that are kept no longer. The other options are those of
    EventEmitterConfig.
    """

    def __init__(
        self,
        source: str | Mapping[str, str],
        *,
        storage: EventOutbox | str | Path,
        now_ms: Callable[[], int] = wall_clock_ms,
        chance: Callable[[], float] = random.random,
        post: Post = post,
        background: bool = True,
        on_set_aside_dropped: Callable[[Sequence[SetAside]], None] | None = None,
        **options: Any,
    ) -> None:
        self.config = EventEmitterConfig(**options)
        self.source = {"id": source} if isinstance(source, str) else dict(source)
        if not self.source.get("id"):
            raise ValueError(f"source is {source!r}, wanted an id, or a mapping with one")
        self.outbox = (
            storage
            if isinstance(storage, EventOutbox)
            else EventOutbox(
                storage,
                events_max=self.config.max_retry_queue_size,
                aside_max=self.config.max_set_aside,
                aside_bytes_max=self.config.max_set_aside_bytes,
                now_ms=now_ms,
            )
        )
        self._now_ms, self._chance, self._post = now_ms, chance, post
        self._background, self._on_set_aside_dropped = background, on_set_aside_dropped
        self._sending = threading.Lock()
        self._wake = threading.Condition()
        self._since_flush = 0
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._closed = False

    def emit(self, type: str, **members: Any) -> str:  # noqa: A002 - the word of the contract
        """Durable when it returns; the id of the event. Raises EventBufferFullError when older ones had to go."""
        event_id = members.pop("id", None) or uuid.uuid4().hex
        self.persist_batch([{"type": type, "id": event_id, **members}])
        return str(event_id)

    def emit_change(
        self,
        op: Change,
        collection: str,
        doc_id: str,
        doc: Any = None,
        prev: Any = None,
    ) -> str | None:
        """A change of a collection, with the next bookmark of this source, which is returned; nothing unless `cdc`."""
        if op not in ("insert", "update", "delete"):
            raise ValueError(f"op is {op!r}, wanted insert, update or delete")
        if not self.config.cdc:
            return None
        members: dict[str, Any] = {"collection": collection, "docId": doc_id}
        if op != "delete":
            members["doc"] = doc
        if op != "insert" and self.config.track_previous and prev is not None:
            members["prev"] = prev
        with self.outbox.transaction():
            bookmark = self.outbox.next_bookmark()
            self.emit(f"collection.{op}", **members, bookmark=bookmark)
        return bookmark

    def persist_batch(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Write these to the outbox in one transaction; what they lack (`id`, `ts`, `do`) is filled in."""
        ts = _moment(self._now_ms())
        bodies = [body_of({"id": uuid.uuid4().hex, "ts": ts, "do": self.source} | dict(event)) for event in events]
        try:
            self.outbox.append(bodies)
        finally:
            self._notify(len(bodies))

    def flush(self) -> int:
        """Send what waits, now, unless the circuit is open; returns how many events were stored by it.

        What cannot be sent stays, and an alarm is set. Raises nothing of the network.
        """
        self._after_a_fork()
        if self.is_circuit_open:
            return 0
        sent = 0
        with self._sending:
            while (batch := self.outbox.cut(self.config.batch_size)) is not None:
                stored = self._send(batch)
                if stored is None:
                    break
                sent += stored
        return sent

    async def flush_async(self) -> int:
        return await asyncio.to_thread(self.flush)

    def handle_alarm(self) -> int:
        """Try again what failed, if its time has come."""
        wait_max_ms = max(RETRY_AFTER_MS_MAX, self.config.circuit_breaker_reset_ms) + JITTER_MS
        if 0 < self.outbox.number("alarm_ms") - self._now_ms() <= wait_max_ms:  # else a clock was wrong that set it
            return 0
        return self.flush()

    @property
    def pending_count(self) -> int:
        return self.outbox.pending()

    @property
    def is_circuit_open(self) -> bool:
        return 0 < self.outbox.number("open_until_ms") - self._now_ms() <= self.config.circuit_breaker_reset_ms

    def set_aside(self) -> list[SetAside]:
        """The events that were refused for good, each with the reason."""
        return self.outbox.aside()

    def get_retry_queue_stats(self) -> RetryQueueStats:
        outbox = self.outbox
        return RetryQueueStats(
            outbox.pending(),
            outbox.aside_count(),
            outbox.number("dropped"),
            outbox.number("failures"),
            outbox.number("alarm_ms") or None,
            outbox.oldest_ms(),
            outbox.number("aside_dropped"),
        )

    def get_circuit_breaker_info(self) -> dict[str, Any]:
        until_ms = self.outbox.number("open_until_ms")
        return {
            "state": "open" if self.is_circuit_open else "half_open" if until_ms else "closed",
            "consecutiveFailures": self.outbox.number("failures"),
            "maxConsecutiveFailures": self.config.max_consecutive_failures,
            "openUntilMs": until_ms or None,
        }

    def reset_circuit_breaker(self) -> None:
        """Close the circuit by hand, and send as soon as somebody can."""
        self.outbox.set_numbers(failures=0, open_until_ms=0, alarm_ms=0)
        self._notify(self.config.batch_size)

    def close(self, *, flush: bool = True) -> None:
        """Send what can be sent, and end the thread. What is left waits in the outbox for the next process."""
        self._after_a_fork()
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(self.config.fetch_timeout_ms / 1000)
        if flush:
            self.flush()
        self.outbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _send(self, batch: EventBatch) -> int | None:
        """How many are stored; None: come back later."""
        body = b'{"batchId":"%s","events":[%s]}' % (batch.name.encode(), b",".join(batch.bodies))
        headers = {"Content-Type": "application/json"}
        if self.config.api_key:
            headers["Authorization"] = f"Bearer {self.config.api_key}"
        try:
            answer = self._post(self.config.endpoint, body, headers, self.config.fetch_timeout_ms / 1000)
        except OSError as exc:
            self._failed(f"no answer: {exc}", 0)
            return None
        if answer.is_success:
            self.outbox.stored(batch)
            self.outbox.set_numbers(failures=0, open_until_ms=0, alarm_ms=0)
            return len(batch.ids)
        if answer.status in REFUSED:
            self._refused(batch, answer)
            return 0
        self._failed(f"HTTP {answer.status}: {answer.body[:200]!r}", answer.retry_after_ms(now_ms=self._now_ms()))
        return None

    def _refused(self, batch: EventBatch, answer: Answer) -> None:
        """What is at fault is set aside, so that it does not block the rest."""
        text, indices = event_aside.complaint(answer, len(batch.ids))
        if not indices and len(batch.ids) > 1:
            self.outbox.split(batch)
            return
        ids = [batch.ids[index] for index in indices] or batch.ids
        log.warning("%d events were refused and set aside: %s", len(ids), text)
        if gone := self.outbox.set_aside(batch, ids, text):
            event_aside.tell(gone, self._on_set_aside_dropped)

    def _failed(self, why: str, retry_after_ms: int) -> None:
        failures = self.outbox.number("failures") + 1
        now_ms, config = self._now_ms(), self.config
        delay_ms = min(FIRST_BACKOFF_MS << min(failures - 1, DOUBLINGS_MAX), BACKOFF_MS_MAX)
        alarm_ms = now_ms + max(delay_ms, retry_after_ms) + int(self._chance() * JITTER_MS)
        is_open = failures >= config.max_consecutive_failures
        open_until_ms = now_ms + config.circuit_breaker_reset_ms if is_open else 0
        self.outbox.set_numbers(failures=failures, alarm_ms=max(alarm_ms, open_until_ms), open_until_ms=open_until_ms)
        log.warning("events were not sent (%d in a row), the next try is in %d ms: %s", failures, delay_ms, why)

    def _notify(self, events: int) -> None:
        if not self._background or self._closed:
            return
        self._after_a_fork()
        with self._wake:
            self._since_flush += events
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="evodb-emitter", daemon=True)
                self._thread.start()
            elif self._since_flush >= self.config.batch_size:
                self._wake.notify()

    def _after_a_fork(self) -> None:
        """A fork has our memory, and not our thread, nor whoever held a lock."""
        if self._pid != os.getpid():
            self._pid, self._thread = os.getpid(), None
            self._sending, self._wake = threading.Lock(), threading.Condition()

    def _run(self) -> None:
        """Send what is full or old enough, and again at the alarm; ends with the process."""
        while True:
            with self._wake:
                if not self._closed and self._since_flush < self.config.batch_size:
                    self._wake.wait(self.config.flush_interval_ms / 1000)
                if self._closed:
                    return
                self._since_flush = 0
            try:
                self.handle_alarm()
            except Exception:
                log.exception("the outbox of events cannot be read or written; it is tried again")


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
