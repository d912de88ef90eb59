"""A child's WebSocket: from the handshake to the goodbye, awake or asleep. What is said on it is `connection`'s.

A Channels consumer for routing and tests that runs its own receive loop: the stock one costs a thread hop and two tasks
per frame (8 400 against 36 000 frames/s on daphne). Replies of a group leave in one task per connection. Asleep it is
this object, a few bytes and one parked coroutine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from channels.consumer import AsyncConsumer

from lakehouse.limits.gate import Guest, Refusal
from lakehouse.parent import door, footprint, greeting
from lakehouse.parent.arrivals import Admitted, Knock
from lakehouse.parent.attachment import Attachment
from lakehouse.parent.connection import (
    GOING_AWAY,
    INTERNAL_ERROR,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    Closed,
    Connection,
)
from lakehouse.parent.hibernation import BEATS_MAX, answer_asleep
from lakehouse.parent.house import House, house
from lakehouse.parent.inflow import Inflow
from lakehouse.parent.life import ABNORMAL
from lakehouse.parent.outflow import Outflow, Send
from lakehouse.parent.shortcut import LATER, Shortcut, shortcut

log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]
PAUSE_S = 0.01
"""Nothing is read for so long from who says more than it may: one that flooded us with small frames kept the others
waiting for 260 ms."""
ANSWERS_SHARE, GOODBYE_SHARE = 0.7, 0.1
"""Of `drain_ms`: what was handed in is answered, and a child that does not read is told that it has to go. The rest is
the house's (`farewell`)."""


class ChildConsumer(AsyncConsumer):  # type: ignore[misc]  # channels has no types
    """One child's socket."""

    __slots__ = (
        "_beats",
        "_child_id",
        "_connection",
        "_goodbye",
        "_guest",
        "_house",
        "_inflow",
        "_is_parked",
        "_kept",
        "_outflow",
        "_parent_id",
        "_receive",
        "_send",
        "_shortcut",
        "_task",
        "scope",
    )
    _receive: Receive
    _house: House
    _guest: Guest
    _parent_id: int
    _child_id: int | None
    _is_parked: bool
    """Nothing is going on but waiting for the child."""
    _connection: Connection | None
    """None while it sleeps; then `_kept` is there."""
    _inflow: Inflow
    _outflow: Outflow
    """While it is awake."""
    _kept: bytes | None
    _beats: int
    _shortcut: Shortcut | None
    """Around the server to its socket, where there is a way."""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.scope, self._send, self._house = scope, send, house()
        self._task, self._goodbye, self._inflow = asyncio.current_task(), GOING_AWAY, Inflow(send)
        self._receive = receive
        del receive  # a parked coroutine would hold on to the server's queue, of 3 KiB
        await self._receive()
        guest = await self._house.doorman.enter(scope, evict=self._be_replaced)
        if isinstance(guest, Refusal):
            await door.too_many(scope, send, guest)
            return
        self._guest = guest
        try:
            knock = greeting.knock_of(scope)
            admitted = self._house.admissions.known(knock) or await self._inflow.closed_until(
                door.admit(self._house, guest, knock, scope, send)
            )
            if admitted is not None:
                await self._serve(admitted, knock)
        finally:
            self._house.doorman.leave(guest)

    @property
    def idle_since_ms(self) -> int:
        return 0 if self._connection is None else self._connection.active_ms

    @property
    def key_id(self) -> int | None:
        return self._guest.key_id

    @property
    def kept_bytes(self) -> int:
        return footprint.size_bytes(self, shared=[self._house])

    def fall_asleep(self) -> bool:
        """Keep a few bytes of the connection, if it waits for its child and has nothing to tell it."""
        connection = self._connection
        if connection is None or not self._is_parked or not self._outflow.is_empty:
            return False
        if self._shortcut is not None and not self._shortcut.is_idle:
            return False
        kept = connection.attachment()
        self._kept = None if kept is None else kept.pack()
        if self._kept is None:
            return False
        self._child_id, self._connection, self._beats = connection.child_id, None, 0
        del self._outflow
        if self._child_id is not None:
            self._house.presence.slept(self._child_id)
        self._house.life.slept(self._parent_id)
        return True

    async def _serve(self, admitted: Admitted, knock: Knock) -> None:
        self._parent_id, self._child_id, self._shortcut = admitted.parent_id, None, None
        self._is_parked, self._outflow = False, Outflow(self._send)
        self._connection = Connection(
            self._house, admitted, self._outflow.put, child=knock.child, shard=knock.shard, claim=self._claim
        )
        self._house.enter(self._parent_id)
        self._house.dormitory.up(self)
        self._house.life.connected(self._parent_id, admitted.parent or knock.parent, knock.child)
        end = ABNORMAL, ""
        if admitted.key_id is not None:
            self._house.key_watch.begin()
        try:
            await door.accept(self._guest, self._send)
            self._inflow.hold_back_slow_readers()
            self._shortcut = shortcut(self._send, self._hear, self._house.unfinished)
            if self._shortcut is not None:
                self._outflow.write, self._receive = self._shortcut.write, self._shortcut.receive
            self.scope.clear()  # 2 KiB
            del admitted, knock
            end = await self._listen(), ""
        except Closed as closed:
            end = closed.code, closed.reason
            await self._close(closed.code, closed.reason)
        except asyncio.CancelledError:
            # The process stops, or a newer connection took this one's place: what was handed in is answered first.
            refusing = asyncio.create_task(self._refuse_all())
            end = self._goodbye, ""
            await self._close(self._goodbye)
            refusing.cancel()
        except OSError:
            log.info("a connection was lost while it was answered")
            end = ABNORMAL, "lost while it was answered"
        except Exception as exc:
            log.exception("a connection ends by a mistake of ours")
            end = INTERNAL_ERROR, type(exc).__name__
            await self._close(INTERNAL_ERROR)
        finally:
            self._leave(*end)

    async def _listen(self) -> int:
        """Until the child leaves; the code it leaves with."""
        while True:
            self._is_parked = True
            message = await self._receive()
            self._is_parked = False
            if message["type"] == "websocket.disconnect":
                return message.get("code") or ABNORMAL
            later = message["what"] if message["type"] == LATER else self._hear(_frame_in(message))
            if later is not None:
                await self._inflow.closed_until(later)
            del message, later  # a parked coroutine would hold on to them

    def _hear(self, frame: str | bytes) -> Awaitable[None] | None:
        """Serve a frame; what is returned has to be awaited before the next one. Raises Closed."""
        if self._house.life.tells_messages:
            self._house.life.heard(self._parent_id, self._guest.child_name)
        if self._connection is None:
            return self._hear_asleep(frame)
        later = self._connection.take(frame)
        if self._outflow.is_overfull:
            raise Closed(TRY_AGAIN_LATER)
        if later is None and self._connection.has_said_too_much:
            return asyncio.sleep(PAUSE_S)
        return later

    def _hear_asleep(self, frame: str | bytes) -> Awaitable[None] | None:
        answer = answer_asleep(frame, now_ms=self._house.now_ms()) if self._beats < BEATS_MAX else None
        if answer is None:
            return self._wake_and_hear(frame)
        self._beats += 1
        if self._child_id is not None:
            self._house.presence.heard(self._child_id)
        if self._shortcut is None:
            return self._send({"type": "websocket.send", "text": answer})
        self._shortcut.write((answer,))
        return None

    async def _wake_and_hear(self, frame: str | bytes) -> None:
        await self._wake()
        later = self._hear(frame)
        if later is not None:
            await later

    async def _wake(self) -> None:
        assert self._kept is not None
        self._outflow = Outflow(self._send, write=None if self._shortcut is None else self._shortcut.write)
        self._connection = await Connection.wake(
            self._house, Attachment.unpack(self._kept), self._outflow.put, claim=self._claim
        )
        self._kept = None
        self._house.dormitory.up(self)
        if self._child_id is not None:
            self._house.presence.woke(self._child_id)
        self._house.life.woke(self._parent_id)

    def _claim(self, child: str) -> None:
        self._house.doorman.claim(self._guest, f"{self._parent_id}/{child}")

    def lose_key(self) -> None:
        """Its access key was revoked, or ran out."""
        self._go(POLICY_VIOLATION)

    def _be_replaced(self) -> None:
        self._go(TRY_AGAIN_LATER)

    def _go(self, goodbye: int) -> None:
        self._goodbye = goodbye
        if self._task is not None:
            self._task.cancel()

    async def _refuse_all(self) -> None:
        """Tell batches that were not looked at, and those that still come, to come back."""
        if self._connection is None:
            return
        self._connection.stop()
        with suppress(Closed):
            while (message := await self._receive())["type"] != "websocket.disconnect":
                if message["type"] == LATER:
                    await message["what"]
                else:
                    self._connection.take(_frame_in(message))

    async def _close(self, code: int, reason: str = "") -> None:
        """Answer what was handed in, then say goodbye; both have their share of `drain_ms`."""
        self._is_parked = False  # nobody falls asleep on the doorstep
        drain_s = self._house.settings.drain_ms / 1000
        if self._connection is not None:
            try:
                async with asyncio.timeout(drain_s * ANSWERS_SHARE):
                    await asyncio.sleep(0)  # what has come already is refused first
                    await self._connection.drained()
                    await self._outflow.drained()
            except TimeoutError:
                session = self._connection.session
                log.error("%d batches of %r were not answered in time", session.unanswered, session.source)
            except asyncio.CancelledError:
                log.info("a connection of %r was ended twice", self._connection.session.source)
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(drain_s * GOODBYE_SHARE):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})

    def _leave(self, code: int, reason: str) -> None:
        was_asleep = self._connection is None
        if self._connection is not None:
            self._connection.leave()
            self._outflow.close()
            self._child_id = self._connection.child_id
        if self._shortcut is not None:
            self._shortcut.close()
        self._house.dormitory.gone(self)
        self._house.leave(self._parent_id)
        if self._child_id is not None:
            self._house.presence.left(self._child_id)
        self._house.life.left(self._parent_id, self._guest.child_name, code, reason, was_asleep=was_asleep)


def _frame_in(message: dict[str, Any]) -> str | bytes:
    """What the child sent; empty for what is no frame."""
    text: str | bytes | None = message.get("text")
    return message.get("bytes") or b"" if text is None else text
