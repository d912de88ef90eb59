"""The other processes, as one process knows them: what happens at our gate is told, what they count is asked.

One task takes what waits, says all of it in one round trip and hands the answers out: a storm of handshakes costs few
trips, and what is told arrives in order. It runs while anybody is here, and keeps the lease of this process.

When Redis is away nobody waits for it: `ask` says None and our own counts decide. Whatever was said last may have been
heard or not, so this process comes back under a new name and states everybody who is here; the old name counts for
nothing from then on. The same happens when the lease ran out, or Redis was emptied.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from lakehouse.conf import Settings
from lakehouse.limits.gate import Gate, Guest, Lane
from lakehouse.limits.scripts import RedisAway
from lakehouse.limits.shared import Answer, Caller, Op, Reply, SharedCounts

log = logging.getLogger(__name__)

OPS_MAX = 500
"""Of one round trip; Redis does nothing else for 3 ms; 20 000 connections are stated anew in 0.16 s."""
FORMER_MAX = 4
"""Names given up while Redis did not answer; the leases of older ones have ended."""


@dataclass(frozen=True, slots=True)
class Say:
    op: Op
    guest: Guest | None = None
    """Of a question: who waits at the gate."""
    answer: asyncio.Future[Answer | None] | None = None


class Colleagues:
    """`evict` is called with a connection somebody's newer one replaced, `alone` when Redis has gone away."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        counts: SharedCounts,
        *,
        name: str,
        evict: Callable[[Guest], None],
        alone: Callable[[], None],
    ) -> None:
        self._gate, self._counts, self._name = gate, counts, name
        self._evict, self._alone = evict, alone
        self._refresh_s = settings.connection_lease_ms / 3000
        self._life = 0
        """Counts up with every new name."""
        self._former: deque[str] = deque(maxlen=FORMER_MAX)
        self._is_known = False
        self._told: set[int] = set()
        """Guests that Redis counts under our name."""
        self._waiting: deque[Say] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_lost = self._is_stopped = False

    @property
    def is_away(self) -> bool:
        """Nobody can be asked: our own counts decide."""
        return self._is_lost or self._is_stopped

    async def ask(self, guest: Guest, lane: Lane) -> Answer | None:
        """Whether there is room for this guest among all processes; None when nobody knows."""
        if self.is_away:
            self._run_on()
            return None
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._say(Say(_enter(guest, lane), guest, answer))
        return await answer

    async def ask_for_key(self, guest: Guest, connections_max: int) -> Answer | None:
        """Whether there is room for this guest among all that have its key; older ones of its child make room."""
        if self.is_away:
            self._run_on()
            return None
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._say(Say(_show_key(guest, connections_max), guest, answer))
        return await answer

    def tell_key(self, guest: Guest) -> None:
        """It has this key, which may have any number."""
        if guest.number in self._told:
            self._say(Say(_show_key(guest, 0)))

    def tell_left(self, guest: Guest) -> None:
        if guest.number in self._told:
            self._told.discard(guest.number)
            self._say(Say(("leave", *_place(guest))))

    def tell_claimed(self, guest: Guest) -> None:
        if guest.number in self._told:
            key = "" if guest.key_id is None else str(guest.key_id)
            self._say(Say(("claim", guest.source, str(guest.number), guest.opened_ms, key, guest.named or "")))

    def tell_key_failed(self, guest: Guest) -> None:
        if guest.counted is not None and not self.is_away:
            self._say(Say(("fail", guest.counted.household)))

    async def stop(self) -> None:
        """Give back all that is counted under our name; from now on nothing is told."""
        self._is_stopped = True
        self._wake.set()
        if self._task is not None:
            await self._task
        if self._is_known:
            with contextlib.suppress(RedisAway):  # then our lease ends by itself
                await self._counts.call(Caller("", [self._me]), [])
        await self._counts.close()

    @property
    def _me(self) -> str:
        return f"{self._name}.{self._life}"

    def _say(self, say: Say) -> None:
        if not self._is_stopped:
            self._waiting.append(say)
            self._wake.set()
            self._run_on()

    def _run_on(self) -> None:
        if not self._is_stopped and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting or self._gate.guests:
                if not self._waiting:
                    await self._next()
                if self._is_stopped:
                    break
                self._wake.clear()
                await self._turn()
        finally:
            self._give_up()

    async def _next(self) -> None:
        """Until something waits, or the lease wants to be told."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._refresh_s):
                await self._wake.wait()

    async def _turn(self) -> None:
        """One round trip; more only under a new name."""
        try:
            if not self._is_known:
                await self._introduce()
            batch, reply = await self._call()
            if not reply.known:
                await self._introduce()
                batch, reply = await self._call()
                if not reply.known:
                    raise RedisAway("the lease ended before everything was said")
            self._hear(batch, reply)
        except RedisAway as exc:
            self._go_away(exc)
        except Exception:
            log.exception("the other processes were not told; they are told anew who is here")
            self._is_known = False
            self._give_up()

    async def _call(self) -> tuple[list[Say], Reply]:
        """Say what waits; it goes on waiting until it is heard."""
        batch = list(islice(self._waiting, OPS_MAX))
        return batch, await self._counts.call(Caller(self._me), [say.op for say in batch])

    async def _introduce(self) -> None:
        """Take a new name and state everybody who is here; who still waits at the gate is not."""
        if self._life:
            self._former.append(self._me)
        self._life += 1
        self._waiting = deque(say for say in self._waiting if say.guest is not None or say.op[0] == "fail")
        asking, keyless = self._asking("enter"), self._asking("key")
        here = [guest for guest in self._gate.guests.values() if guest.number not in asking]
        self._told = {guest.number for guest in here}
        caller = Caller(self._me, list(self._former), new=True)
        for start in range(0, len(here) or 1, OPS_MAX):
            now = here[start : start + OPS_MAX]
            ops = [("here", *_place(guest, with_key=guest.number not in keyless)) for guest in now]
            self._evict_all(await self._counts.call(caller, ops))
        self._former.clear()
        self._is_known = True

    def _asking(self, what: str) -> set[int]:
        """Who waits for an answer to this."""
        return {say.guest.number for say in self._waiting if say.guest is not None and say.op[0] == what}

    def _hear(self, batch: list[Say], reply: Reply) -> None:
        if self._is_lost:
            log.warning("Redis is back: limits hold for all processes together again")
            self._is_lost = False
        for say, answer in zip(batch, reply.answers, strict=True):
            if say.guest is not None and not answer.reason:
                self._note_let_in(say, say.guest)
            _settle(say, answer)
            self._waiting.popleft()
        self._evict_all(reply)

    def _note_let_in(self, say: Say, guest: Guest) -> None:
        has_left = guest.number not in self._gate.guests  # while we asked
        if say.op[0] == "enter":
            self._told.add(guest.number)
            if has_left:
                self.tell_left(guest)
        elif has_left:  # whether that was told or not, it does no harm to tell it twice
            self._say(Say(("leave", "", "", *_place(guest)[2:])))

    def _evict_all(self, reply: Reply) -> None:
        for number in reply.evicted:
            if (guest := self._gate.guests.get(int(number))) is not None:
                self._evict(guest)

    def _go_away(self, exc: RedisAway) -> None:
        if not self._is_lost:
            log.warning("Redis is away, limits hold per process until it is back: %s", exc)
        self._is_lost, self._is_known = True, False
        self._told.clear()
        self._give_up()
        self._alone()

    def _give_up(self) -> None:
        """Nobody waits for an answer any longer."""
        for say in self._waiting:
            _settle(say, None)
        self._waiting.clear()


def _settle(say: Say, answer: Answer | None) -> None:
    if say.answer is not None and not say.answer.done():
        say.answer.set_result(answer)


def _enter(guest: Guest, lane: Lane) -> Op:
    counted = guest.counted
    place = ("", "", "") if counted is None else (counted.ip, counted.subnet, counted.household)
    return ("enter", *place, lane)


def _show_key(guest: Guest, connections_max: int) -> Op:
    return ("key", str(guest.key_id), guest.child or "", str(guest.number), guest.opened_ms, connections_max)


def _place(guest: Guest, *, with_key: bool = True) -> tuple[str, str, str, str, int, str, str]:
    """Where a connection is counted: address, network, child, key and the child it has that as; and which it is."""
    counted = guest.counted
    ip, subnet = ("", "") if counted is None else (counted.ip, counted.subnet)
    key = str(guest.key_id) if with_key and guest.key_id is not None else ""
    return ip, subnet, guest.source or "", str(guest.number), guest.opened_ms, key, guest.child or ""
