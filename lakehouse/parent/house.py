"""What all connections of a process share: one intake, the alarms, the doorman, and who is here."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from django.conf import settings as django_settings

from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.events.config import MESSAGES, OFF
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.intake import Intake
from lakehouse.limits.doorman import Doorman, open_doorman
from lakehouse.limits.lag import Lag
from lakehouse.limits.load import LoadLevel, level
from lakehouse.limits.shared_rates import SharedRates
from lakehouse.parent.admissions import Admissions
from lakehouse.parent.alarm import Alarms
from lakehouse.parent.flush_watch import FlushWatch
from lakehouse.parent.hibernation import Dormitory
from lakehouse.parent.key_watch import KeyWatch
from lakehouse.parent.life import Life, ToldLife
from lakehouse.parent.persisted import PersistedWatch
from lakehouse.parent.presence import Presence
from lakehouse.parent.unfinished import Unfinished


@dataclass(slots=True)
class House:
    settings: Settings
    intake: Intake
    alarms: Alarms
    now_ms: Callable[[], int]
    persisted: PersistedWatch
    flush_watch: FlushWatch
    presence: Presence
    dormitory: Dormitory
    doorman: Doorman
    lag: Lag
    admissions: Admissions
    key_watch: KeyWatch
    unfinished: Unfinished
    chance: Callable[[], float] = random.random
    connections: Counter[int] = field(default_factory=Counter)
    """Open connections per parent."""
    life: Life = field(default_factory=Life)
    """Told what parents do; tells it when EVODB_EVENTS_LIFECYCLE asks for it."""
    rates: SharedRates | None = None
    """What comes over HTTP, counted with all other processes; None without Redis."""
    goodbyes: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """What has to end with the house, said by whoever began it."""
    is_closing: bool = False
    """Whoever comes now is asked to come back, to another process or to this one when it is up again."""

    def enter(self, parent_id: int) -> None:
        self.connections[parent_id] += 1

    def leave(self, parent_id: int) -> None:
        """When the last child of a parent leaves, what waits is flushed: its rows are wanted in the table."""
        self.connections[parent_id] -= 1
        if not self.connections[parent_id]:
            del self.connections[parent_id]
            self.alarms.ring(parent_id, FlushTrigger.GOODBYE)

    def load(self, parent_id: int, *, utilization: float = 0.0) -> LoadLevel:
        """How busy we are for a parent; `utilization` of its buffer, where more is known than was journalled."""
        known = max(utilization, self.alarms.utilization(parent_id))
        return level(known, self.settings, intake_bytes=self.intake.waiting_bytes, lag_ms=self.lag.ms)

    async def close(self) -> None:
        """Journal and answer what was handed in; ask for a last flush."""
        self.is_closing = True
        for goodbye in self.goodbyes:
            await goodbye()
        await self.persisted.stop()
        await self.flush_watch.stop()
        await self.dormitory.stop()
        await self.key_watch.stop()
        await self.presence.stop()
        await self.life.stop()
        await self.intake.stop()
        await self.alarms.stop()
        await self.doorman.stop()
        if self.rates is not None:
            await self.rates.close()


def open_house(settings: Settings, *, ask: Callable[[int, FlushTrigger], None]) -> House:
    """A house in the running event loop."""
    alarms = Alarms(ask, now_ms=now_ms)
    intake = Intake(settings, now_ms=now_ms, on_commit=alarms.note)
    alarms.run = intake.run
    dormitory = Dormitory(after_ms=settings.hibernate_after_ms, now_ms=now_ms)
    opened = House(
        settings,
        intake,
        alarms,
        now_ms,
        PersistedWatch(intake.run),
        FlushWatch(intake.run, alarms.ask, now_ms=now_ms),
        Presence(intake.run, interval_ms=settings.presence_interval_ms, now_ms=now_ms),
        dormitory,
        open_doorman(settings, now_ms=now_ms),
        Lag(asyncio.get_running_loop()),
        Admissions(intake.run, settings, now_ms=now_ms),
        KeyWatch(intake.run, dormitory.everybody, now_ms=now_ms),
        Unfinished(bytes_max=settings.intake_bytes_max),
    )
    if settings.redis_url:
        opened.rates = SharedRates(settings.redis_url)
    if settings.events_lifecycle != OFF:
        messages = settings.events_lifecycle == MESSAGES
        opened.life = ToldLife(intake, opened.connections, now_ms=now_ms, messages=messages)
        alarms.on_alarm = opened.life.alarm
    return opened


def house() -> House:
    """The house of the running event loop; opened when the first child knocks."""
    loop = asyncio.get_running_loop()
    return _houses.get(loop) or move_in(open_house(django_settings.EVODB, ask=ask_worker))


def move_in(opened: House) -> House:
    """Make this the house of the running event loop."""
    _houses[asyncio.get_running_loop()] = opened
    return opened


async def move_out() -> None:
    """Close the house of the running event loop, if there is one. It stays: who comes late hears that it is closed."""
    opened = _houses.get(asyncio.get_running_loop())
    if opened is not None:
        await opened.close()


def announce_move_out() -> None:
    """The house of the running event loop is going to close; writes over HTTP are sent away from now on."""
    opened = _houses.get(asyncio.get_running_loop())
    if opened is not None:
        opened.is_closing = True


def ask_worker(parent_id: int, trigger: FlushTrigger) -> None:
    """Through the broker. Raises BrokerAway.

    The task is named, not imported, so that this process never loads the lake's libraries.
    """
    from celery import current_app

    from lakehouse.broker import asked

    with asked():
        current_app.send_task("lakehouse.tasks.flush_parent", args=[parent_id, trigger.value])


_houses: WeakKeyDictionary[asyncio.AbstractEventLoop, House] = WeakKeyDictionary()
