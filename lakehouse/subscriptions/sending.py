"""Messages on their way, each subscription in a line of its own: a few at a time, and the next one at once.

    taken from rows ─▶ waiting ─▶ lanes ─▶ done ─▶ settled on rows

What waits here was taken a little ahead, so that nobody waits for the database between two messages. It is as pending
in its row as before: a subscription that is paused, or served by somebody else, loses what waits here and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lakehouse.subscriptions import webhook
from lakehouse.subscriptions.models import Subscription
from lakehouse.subscriptions.retries import GONE, Outcome
from lakehouse.subscriptions.settle import Tried
from lakehouse.subscriptions.targets import Message

log = logging.getLogger(__name__)

Send = Callable[[Message], Awaitable[Outcome]]


class Taken(NamedTuple):
    """What is due for a subscription that this process serves, and whether that was all, commits to come included."""

    to: Subscription
    messages: list[Message]
    is_all: bool


@dataclass(slots=True)
class Line:
    """Of one subscription."""

    waiting: deque[Message] = field(default_factory=deque)
    known: set[int] = field(default_factory=set)
    """Messages in memory: waiting, being sent, or not written down yet."""
    lanes: int = 0
    is_all: bool = False
    to: Subscription | None = None
    """As its row is now; what waits may have been taken before."""


class Sending:
    """Of one event loop, to which everything belongs but `done` and what is known: those a thread settles."""

    def __init__(self, send: Send, *, lanes_max: int, now_ms: Callable[[], int]) -> None:
        self._send, self._lanes_max, self._now_ms = send, lanes_max, now_ms
        self.lines: dict[int, Line] = {}
        self.lanes: set[asyncio.Task[None]] = set()
        self.done: list[Tried] = []
        self.is_dry = asyncio.Event()
        """A line has nothing left although there is more for it, or nothing at all is being sent any more."""
        self.until_ms = 0
        """How long the subscriptions are certainly ours."""
        self.waiting_bytes = 0
        self.held_bytes: Counter[int] = Counter()
        """Waiting or being sent, by tenant."""

    def go_on(self, taken: Mapping[int, Taken]) -> None:
        """With these; what waits for any other subscription is not ours to send any more."""
        for pk, line in list(self.lines.items()):
            if pk not in taken:
                self._drop(line)
            if not line.known:
                del self.lines[pk]
        for pk, (to, messages, is_all) in taken.items():
            line = self.lines.setdefault(pk, Line())
            line.to, line.is_all = to, is_all
            line.waiting += messages
            line.known.update(message.delivery_id for message in messages)
            size_bytes = sum(len(message.events) for message in messages)
            self.waiting_bytes += size_bytes
            self.held_bytes[to.parent_id] += size_bytes
            for _ in range(min(self._lanes_max - line.lanes, len(line.waiting))):
                self._start(line)

    def drop_all(self) -> None:
        """Begin nothing any more."""
        for line in self.lines.values():
            self._drop(line)

    def forget(self, settled: Iterable[Tried]) -> None:
        """These are written down."""
        for one in settled:
            self.lines[one.message.to.pk].known.discard(one.message.delivery_id)

    def _drop(self, line: Line) -> None:
        line.known.difference_update(message.delivery_id for message in line.waiting)
        for message in line.waiting:
            self.waiting_bytes -= len(message.events)
            self._let_go(message)
        line.waiting.clear()

    def _let_go(self, message: Message) -> None:
        tenant = message.to.parent_id
        self.held_bytes[tenant] -= len(message.events)
        if not self.held_bytes[tenant]:
            del self.held_bytes[tenant]

    def _start(self, line: Line) -> None:
        line.lanes += 1
        lane = asyncio.create_task(self._walk(line))
        self.lanes.add(lane)
        lane.add_done_callback(lambda _: self._end(line, lane))

    def _end(self, line: Line, lane: asyncio.Task[None]) -> None:
        line.lanes -= 1
        self.lanes.discard(lane)
        if not self.lanes or not (line.lanes or line.is_all):
            self.is_dry.set()

    async def _walk(self, line: Line) -> None:
        while line.waiting and self._now_ms() < self.until_ms:
            message = line.waiting.popleft()
            self.waiting_bytes -= len(message.events)
            assert line.to is not None
            await self._try(message if message.to is line.to else replace(message, to=line.to), line)

    async def _try(self, message: Message, line: Line) -> None:
        started_ms = self._now_ms()
        try:
            outcome = await self._send(message)
        except Exception as exc:  # else nobody would ever write it down, and it would be on its way for good
            log.exception("%s of %s", message.message_id, message.to)
            outcome = Outcome(False, error=f"{type(exc).__name__}: {exc}"[: webhook.ERROR_CHARS_MAX])
        if outcome.status == GONE:
            self._drop(line)
        self._let_go(message)
        self.done.append(Tried(message, started_ms, self._now_ms() - started_ms, outcome))
