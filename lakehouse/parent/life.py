"""What a parent does, told as events: its sockets (`ws.*`) and its own life in this process (`do.*`).

    note ─ in memory, at most WAITING_MAX ─ every EVERY_S one batch ─ journal

A note is a tuple in a list, so no socket waits for one or fails by one; what does not fit is counted and logged. The
events go the way of all others, into the namespace `system`, which only keys with the scope `admin` may read, for they
name children of all tenants. Parents that hold events tell nothing of themselves, or each batch would make the next.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import Error as DatabaseError

from lakehouse.events import batch, homes, namespaces
from lakehouse.events.event import Event, shown
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import FORGOTTEN, Accepted, Refused, Source, Verdict
from lakehouse.journal.dedup import NUMBER_BITS
from lakehouse.journal.intake import Intake, Offer
from lakehouse.parent import leases
from rpc.batch import BatchFrame
from rpc.messages import NackReason

log = logging.getLogger(__name__)

NAMESPACE = "system"
EVERY_S = 1.0
WAITING_MAX = 10_000
ANSWER_S_MAX = 10.0
NORMAL, ABNORMAL, INTERNAL_ERROR = 1000, 1006, 1011
NO_BOUND = 2**62
"""The operator asked for this parent; EVODB_PARENTS_MAX is for those that others name."""
REASON_CHARS_MAX = 123
FOR_GOOD = (NackReason.INVALID_FORMAT, NackReason.INVALID_SEQUENCE)
"""A batch that is refused so is never taken as it is."""
ASIDE_SHOWN_MAX = 10
TRIES_MAX = 1000
"""So often in a second something is handed in while all of it is refused."""


class Life:
    """Of which nothing is told."""

    is_told = tells_messages = False

    def connected(self, parent_id: int, parent: str, child: str | None) -> None: ...

    def heard(self, parent_id: int, child: str | None) -> None: ...

    def slept(self, parent_id: int) -> None: ...

    def woke(self, parent_id: int) -> None: ...

    def left(self, parent_id: int, child: str | None, code: int, reason: str = "", *, was_asleep: bool) -> None: ...

    def ended(self, parent: str, child: str | None, code: int, reason: str = "", **members: Any) -> None: ...

    def note(self, kind: str, parent: str, child: str | None = None, **members: Any) -> None: ...

    async def stop(self) -> None: ...


class ToldLife(Life):
    """For one process. `connections` are the open ones by parent, counted by the house."""

    is_told = True

    def __init__(self, intake: Intake, connections: Counter[int], *, now_ms: Callable[[], int], messages: bool) -> None:
        self._intake, self._connections, self._now_ms = intake, connections, now_ms
        self.tells_messages = messages
        self._worker = leases.this_process()
        self._names: dict[int, str] = {}
        """Of parents that have sockets here."""
        self._asleep: Counter[int] = Counter()
        self._waiting: deque[Event] = deque()
        self._unsure: BatchFrame | None = None
        """Was handed in, and nobody knows whether it is stored: it comes again, under its number."""
        self._source: Source | None = None
        self._events_max = batch.EVENTS_MAX
        """Of the next batch; less behind one that was refused for good."""
        self._aside = 0
        self._lost = 0
        self._telling: asyncio.Task[None] | None = None

    def connected(self, parent_id: int, parent: str, child: str | None) -> None:
        if parent_id not in self._names:
            self._names[parent_id] = parent
            self.note("do.create", parent, reason="first socket")
        self.note("ws.connect", parent, child, connectionCount=self._connections[parent_id])

    def heard(self, parent_id: int, child: str | None) -> None:
        if parent_id in self._names:
            self.note("ws.message", self._names[parent_id], child)

    def slept(self, parent_id: int) -> None:
        self._asleep[parent_id] += 1
        if parent_id in self._names and self._asleep[parent_id] == self._connections[parent_id]:
            self.note("do.hibernate", self._names[parent_id], reason="all sockets sleep")

    def woke(self, parent_id: int) -> None:
        self._asleep[parent_id] -= 1

    def left(self, parent_id: int, child: str | None, code: int, reason: str = "", *, was_asleep: bool) -> None:
        """After the house stopped counting it."""
        if was_asleep:
            self.woke(parent_id)
        if (parent := self._names.get(parent_id)) is None:
            return
        self.ended(parent, child, code, reason, connectionCount=self._connections[parent_id])
        if not self._connections[parent_id]:
            del self._names[parent_id], self._asleep[parent_id]
            self.note("do.evict", parent, reason="last socket")

    def ended(self, parent: str, child: str | None, code: int, reason: str = "", **members: Any) -> None:
        """A socket, of this process or of a proxy."""
        if reason:  # half a surrogate pair can be in no event, and what cannot be told would block the others
            members["reason"] = reason[:REASON_CHARS_MAX].encode(errors="replace").decode()
        kind = "ws.error" if code in (ABNORMAL, INTERNAL_ERROR) and reason else "ws.close"
        self.note(kind, parent, child, code=code, **members)

    def alarm(self, parent_id: int, trigger: FlushTrigger) -> None:
        if parent_id in self._names:
            self.note("do.alarm", self._names[parent_id], reason=trigger.value)

    def note(self, kind: str, parent: str, child: str | None = None, **members: Any) -> None:
        """Never waits, never fails."""
        if namespaces.holds_events(parent):
            return
        if len(self._waiting) >= WAITING_MAX:
            self._lost += 1
            return
        now_ms = self._now_ms()
        do = {"id": parent, "class": "Parent", "worker": self._worker}
        found = {"type": kind, "ts": shown(now_ms), "do": do, **members}
        if child is not None:
            found["source"] = child
        self._waiting.append(Event(kind, now_ms, None, found))
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_while_anything_waits())

    async def stop(self) -> None:
        """Tell what waits, once; the rest of the process stops behind this."""
        for parent in self._names.values():
            self.note("do.evict", parent, reason="shutdown")
        self._names.clear()
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait([self._telling])
        while self._waiting and await self._tell():
            pass
        if self._waiting:
            log.warning("%d events of parents and their sockets are lost: the journal is away", len(self._waiting))

    async def _tell_while_anything_waits(self) -> None:
        while self._waiting:
            await asyncio.sleep(EVERY_S)
            await self._tell()

    async def _tell(self) -> bool:
        """A batch of what waits; whether it is durable now, or something less is in its way."""
        try:
            verdict, tries = await self._hand_in(), 1
            while isinstance(verdict, Refused) and verdict.reason in FOR_GOOD and tries < TRIES_MAX:
                self._put_out_of_the_way(verdict)
                if not self._waiting:
                    break
                verdict, tries = await self._hand_in(), tries + 1
        except (DatabaseError, TimeoutError) as exc:
            log.warning("%d events of parents wait, the journal is away: %s", len(self._waiting), exc)
            return False
        if isinstance(verdict, Accepted):
            for _ in range(verdict.entries):
                self._waiting.popleft()
            self._unsure = None
            self._events_max = min(2 * self._events_max, batch.EVENTS_MAX)
        elif verdict is FORGOTTEN:
            self._source = None
        self._say_what_is_lost()
        return isinstance(verdict, Accepted) or tries > 1

    def _put_out_of_the_way(self, refused: Refused) -> None:
        """Half of a batch may be taken; a single event is set aside, so that it does not block the rest."""
        assert self._unsure is not None, "something was refused"
        entries, self._unsure = self._unsure.entries, None
        self._events_max = max(1, entries // 2)
        if entries > 1:
            return
        event = self._waiting.popleft()
        self._aside += 1
        if self._aside <= ASIDE_SHOWN_MAX:
            log.error("an event of a parent is refused for good and set aside: %s; %s", refused.message, event.members)

    def _say_what_is_lost(self) -> None:
        if self._aside > ASIDE_SHOWN_MAX:
            log.error("%d events of parents and their sockets were refused for good and set aside", self._aside)
        if self._lost:
            log.warning("%d events of parents and their sockets are lost: too many at once", self._lost)
        self._aside = self._lost = 0

    async def _hand_in(self) -> Verdict:
        """Raises DatabaseError, TimeoutError."""
        if self._source is None:
            make = partial(homes.source, NAMESPACE, parents_max=NO_BOUND, now_ms=self._now_ms())
            self._source = await self._intake.run(make)
        if self._unsure is None:
            some = [self._waiting[index] for index in range(min(len(self._waiting), self._events_max))]
            sequence = batch.sequence_of(None, number=random.getrandbits(NUMBER_BITS))
            self._unsure = batch.frame(some, namespace=NAMESPACE, sequence=sequence, now_ms=self._now_ms())
        if not self._intake.has_room(len(self._unsure.payload)):
            raise TimeoutError("too much waits for it")
        heard: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

        def tell(_: BatchFrame, verdict: Verdict) -> None:
            if not heard.done():  # we may have gone
                heard.set_result(verdict)

        self._intake.offer(Offer(self._source, self._unsure, tell))
        async with asyncio.timeout(ANSWER_S_MAX):
            return await heard
