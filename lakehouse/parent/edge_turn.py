"""One request's worth of a socket that a proxy holds: awake until it is answered, then nothing of it is left here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from django.db import Error as DatabaseError

from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import Child
from lakehouse.parent import edge_events, leases
from lakehouse.parent.arrivals import Admitted, Knock
from lakehouse.parent.attachment import Attachment
from lakehouse.parent.connection import INTERNAL_ERROR, POLICY_VIOLATION, TRY_AGAIN_LATER, Closed, Connection
from lakehouse.parent.edge_answers import through_proxy
from lakehouse.parent.edge_events import Event, Kind, NotEvents
from lakehouse.parent.flush_requests import WAIT_MS_MAX
from lakehouse.parent.hibernation import answer_asleep
from lakehouse.parent.house import House
from lakehouse.parent.life import ABNORMAL, NORMAL

log = logging.getLogger(__name__)

NOT_UTF8 = 1007
HELD_MS_MAX = WAIT_MS_MAX + 10_000
"""A request is answered within this; a flush that a child waits for takes longest."""
PONG_EVERY_S = 20
"""A proxy that says `pong` to a silent child is asked for nothing: children send a heartbeat after 30 s of silence."""
NAMES_TOO_LONG = "the names of child and shard are too long for a connection that sleeps"
FRAMES = {Kind.TEXT, Kind.BINARY}
ENDS = {Kind.CLOSE, Kind.DISCONNECT}


class Turn:
    """`heard` is what the child shall hear; `kept` what is remembered of its socket, None when that has ended.

    `holder` is the socket: as long as it is there, the child is, whichever process answers.
    """

    def __init__(self, house: House, holder: str, before: Attachment | None = None) -> None:
        self.heard: list[Event] = []
        self.kept: Attachment | None = None
        self._house = house
        self._holder = holder
        self._before = before
        self._connection: Connection | None = None
        self._news = asyncio.Event()
        self._ended = ABNORMAL, ""
        """The code and the reason of an end."""
        self._parent: str | None = None
        """When it came in this turn."""

    def open(self, admitted: Admitted, knock: Knock) -> None:
        """A new socket, let in."""
        self.heard.append(Event(Kind.OPEN))
        self._connection = Connection(self._house, admitted, self._hear, child=knock.child, shard=knock.shard)
        self._parent = admitted.parent or knock.parent
        self._house.life.note("ws.connect", self._parent, knock.child)

    async def serve(self, events: Sequence[Event]) -> None:
        """What happened on the socket, in order; returns when everything is answered."""
        try:
            if not (events and events[0].kind in ENDS):
                await self._serve(events)
            self.heard += [event for event in events if event.kind is Kind.CLOSE][:1]
            self._ended = next((_code_of(event) for event in events if event.kind in ENDS), ABNORMAL), ""
        except Closed as closed:
            self._ended = closed.code, closed.reason
            await self._end(closed.code, closed.reason)
        except Exception as exc:
            log.exception("a connection ends by a mistake of ours")
            self._ended = INTERNAL_ERROR, type(exc).__name__
            await self._end(INTERNAL_ERROR)
        finally:
            child_id = self._leave()
        if self.kept is None and self._house.life.is_told:
            await self._tell_life(child_id)
        if child_id is not None:
            await self._tell(child_id, events)

    async def _serve(self, events: Sequence[Event]) -> None:
        connection = self._connection = self._connection or await self._wake()
        for event in events:
            if event.kind in ENDS:
                await self._answered()
                return
            if event.kind in FRAMES:
                await _take(connection, event)
            elif event.kind is Kind.PING:
                self.heard.append(Event(Kind.PONG, event.content))
        self.kept = await self._settled(connection)

    async def _wake(self) -> Connection:
        assert self._before is not None
        if self._before.key_id is None and not self._house.settings.open:
            raise Closed(POLICY_VIOLATION)  # the house was open when it came
        return await Connection.wake(self._house, self._before, self._hear)

    async def _end(self, code: int, reason: str = "") -> None:
        """Answer what was handed in, within `drain_ms`, then say goodbye."""
        try:
            async with asyncio.timeout(self._house.settings.drain_ms / 1000):
                await self._answered()
        except TimeoutError:
            assert self._connection is not None
            session = self._connection.session
            log.error("%d batches of %r were not answered in time", session.unanswered, session.source)
        self.heard.append(edge_events.close(code, reason))

    async def _answered(self) -> None:
        """Every batch is answered. The intake's `drained` would do, and cost each batch a commit of its own."""
        while self._connection is not None and self._connection.session.unanswered:
            await self._news.wait()
            self._news.clear()

    async def _settled(self, connection: Connection) -> Attachment:
        """What to remember, once nothing is under way. Raises Closed when that never comes."""
        try:
            async with asyncio.timeout(HELD_MS_MAX / 1000):
                while (kept := connection.attachment()) is None:
                    await self._news.wait()
                    self._news.clear()
        except TimeoutError:
            raise Closed(TRY_AGAIN_LATER) from None
        if kept.pack() is None:
            raise Closed(POLICY_VIOLATION, NAMES_TOO_LONG)
        if kept.own_epoch and not (self._before and self._before.own_epoch):
            # Only children that keep an epoch are known to take a pong they did not ask for.
            self.heard.append(edge_events.order(type="keep-alive", content="pong", timeout=PONG_EVERY_S))
        return kept

    def _hear(self, frame: str | bytes) -> None:
        self.heard.append(edge_events.say(through_proxy(frame)))
        self._news.set()

    def _leave(self) -> int | None:
        """Let go of the connection; returns its child. This process counts only sockets of its own."""
        known = None if self._before is None else self._before.child_id
        if self._connection is None:
            return known
        child_id = self._connection.child_id
        self._connection.leave()
        if known is None and child_id is not None:
            self._house.presence.handed_over(child_id)
        return child_id

    async def _tell(self, child_id: int, events: Sequence[Event]) -> None:
        """Tell where the child is now. An end is told at once, for it may be the last one of its parent; so is an
        arrival, which is said in text, for another process may hear of its end."""
        presence, now_ms = self._house.presence, self._house.now_ms()
        try:
            if self.kept is None:
                await self._tell_gone(child_id, now_ms)
            elif not presence.is_here(child_id) and any(event.kind is Kind.TEXT for event in events):
                await self._house.intake.run(lambda: leases.settle_at_proxy(child_id, self._holder, now_ms=now_ms))
            else:
                presence.heard_at_proxy(child_id)
        except DatabaseError as exc:
            log.warning("where child %d is could not be written: %s", child_id, exc)

    async def _tell_life(self, child_id: int | None) -> None:
        """Whoever was not awake in this turn is known by his row."""
        names = None
        if self._connection is not None and self._parent is not None:
            names = self._parent, self._connection.session.source
        elif child_id is not None:
            rows = Child.objects.filter(pk=child_id).values_list("parent__name", "name")
            try:
                names = await self._house.intake.run(rows.first)
            except DatabaseError:
                return
        if names is not None:
            self._house.life.ended(*names, *self._ended)

    async def _tell_gone(self, child_id: int, now_ms: int) -> None:
        """The socket ended. When the last child of a parent is gone, what waits is flushed, as for any other socket."""
        holders = [self._holder] if self._house.presence.is_here(child_id) else [self._holder, leases.this_process()]
        parent_id: int | None = await self._house.intake.run(
            lambda: leases.leave_proxy(child_id, holders, now_ms=now_ms)
        )
        if parent_id is not None and not self._house.connections[parent_id]:
            self._house.alarms.drop(parent_id)
            self._house.alarms.ask(parent_id, FlushTrigger.GOODBYE)


def answers_asleep(events: Sequence[Event], *, now_ms: int) -> list[Event] | None:
    """The answers when all of it can be answered without waking the connection, else None."""
    heard: list[Event] = []
    for event in events:
        if event.kind is Kind.PING:
            heard.append(Event(Kind.PONG, event.content))
        elif event.kind is not Kind.PONG:
            answer = answer_asleep(_text(event), now_ms=now_ms) if event.kind is Kind.TEXT else None
            if answer is None:
                return None
            heard.append(edge_events.say(answer))
    return heard


async def _take(connection: Connection, event: Event) -> None:
    try:
        frame = event.frame
    except NotEvents:
        raise Closed(NOT_UTF8) from None
    waited = connection.take(frame)
    if waited is not None:
        await waited


def _code_of(event: Event) -> int:
    if event.kind is Kind.DISCONNECT:
        return ABNORMAL
    return int.from_bytes(event.content[:2], "big") if len(event.content) >= 2 else NORMAL


def _text(event: Event) -> str | bytes:
    try:
        return event.frame
    except NotEvents:
        return event.content
