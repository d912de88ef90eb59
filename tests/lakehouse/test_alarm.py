import asyncio
import logging
import threading

import pytest
from django.db import OperationalError

from lakehouse.flush.policy import FlushTrigger, Waiting
from lakehouse.journal.accept import accept
from lakehouse.journal.store import Buffer
from lakehouse.models import Batch, BatchState, Parent
from lakehouse.parent import alarm
from lakehouse.parent.alarm import ASK_AGAIN_MS, Alarms
from rpc.config import ParentConfig
from tests.builders import NOW_MS, frame, parent, run, source, wire
from tests.lakehouse.test_consumer import hello, socket
from tests.lakehouse.test_consumer import home as home_of_children
from tests.lakehouse.test_hibernation import asleep, drowsy
from tests.lakehouse.test_intake import in_thread

HOME, RIVAL = 1, 2
AGE_MS = 60_000
CONFIG = ParentConfig(flush_threshold_ms=AGE_MS, flush_threshold_entries=10, flush_interval_ms=10 * AGE_MS)


class Watch:
    """Alarms with a clock that stands still until it is moved, and what they asked for."""

    def __init__(self):
        self.now_ms = NOW_MS
        self.asked = []
        self.alarms = Alarms(self._ask, now_ms=lambda: self.now_ms)

    def _ask(self, parent_id, trigger):
        self.asked.append((parent_id, trigger))

    def note(self, *, entries, size_bytes=100, parent_id=HOME, config=CONFIG):
        self.alarms.note({parent_id: Buffer(parent_id, config, 1, entries, size_bytes)})

    async def heard(self, number=1):
        """The first so many things asked for."""
        async with asyncio.timeout(10):
            while len(self.asked) < number:
                await asyncio.sleep(0.001)
        return self.asked[:number]


@pytest.fixture
def hasty(monkeypatch):
    """Timers ring as early as they can, to look at the clock."""
    monkeypatch.setattr(alarm, "ASK_AGAIN_MS", 1)
    monkeypatch.setattr(alarm, "due_at_ms", lambda *_: 0)


async def test_a_buffer_below_its_thresholds_is_not_asked_for_before_its_time(hasty):
    watch = Watch()
    watch.note(entries=1)
    watch.now_ms += AGE_MS - 1
    looked = watch.alarms._alarms[HOME].timer
    async with asyncio.timeout(10):
        while watch.alarms._alarms[HOME].timer is looked:
            await asyncio.sleep(0.001)
    assert watch.asked == []
    assert watch.alarms.armed == 1


async def test_the_timer_asks_at_the_age_of_the_oldest_without_any_traffic(hasty):
    watch = Watch()
    watch.note(entries=1)
    watch.now_ms += AGE_MS
    assert await watch.heard() == [(HOME, FlushTrigger.AGE)]
    assert watch.alarms.armed == 0


async def test_the_timer_rings_by_itself_after_a_short_age():
    config = ParentConfig(flush_threshold_ms=5, flush_interval_ms=AGE_MS)
    watch = Watch()
    loop, start_s = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    watch.alarms = Alarms(watch._ask, now_ms=lambda: NOW_MS + int((loop.time() - start_s) * 1000))
    watch.note(entries=1, config=config)
    assert await watch.heard() == [(HOME, FlushTrigger.AGE)]


async def test_what_comes_later_does_not_put_the_alarm_off(hasty):
    watch = Watch()
    watch.note(entries=1)
    watch.now_ms += AGE_MS - 1
    watch.note(entries=2)
    watch.now_ms += 1
    assert await watch.heard() == [(HOME, FlushTrigger.AGE)]


async def test_after_a_flush_the_age_is_counted_from_what_came_next():
    watch = Watch()
    watch.note(entries=5)
    watch.now_ms += AGE_MS - 1
    watch.note(entries=1)
    watch.now_ms += AGE_MS - 1
    watch.note(entries=2)
    assert watch.asked == []
    watch.now_ms += 1
    watch.note(entries=3)
    assert await watch.heard() == [(HOME, FlushTrigger.AGE)]
    await watch.alarms.stop()


@pytest.mark.parametrize(
    ("held", "trigger"),
    [
        ({"entries": 10}, FlushTrigger.ENTRIES),
        ({"entries": 1, "size_bytes": CONFIG.flush_threshold_bytes}, FlushTrigger.BYTES),
    ],
)
async def test_a_threshold_that_is_reached_is_asked_for_at_once(held, trigger):
    watch = Watch()
    watch.note(**held)
    assert await watch.heard() == [(HOME, trigger)]


async def test_a_buffer_above_its_threshold_asks_once_per_interval_however_many_groups_come():
    watch = Watch()
    for entries in range(10, 30):
        watch.note(entries=entries)
        watch.now_ms += 1
    await watch.alarms.settled()
    assert watch.asked == [(HOME, FlushTrigger.ENTRIES)]
    watch.now_ms = NOW_MS + ASK_AGAIN_MS
    watch.note(entries=30)
    await watch.alarms.settled()
    assert watch.asked == [(HOME, FlushTrigger.ENTRIES)] * 2
    await watch.alarms.stop()


async def test_every_parent_has_an_alarm_of_its_own(hasty):
    watch = Watch()
    watch.note(entries=1)
    watch.now_ms += 1
    watch.note(entries=1, parent_id=RIVAL)
    assert watch.alarms.armed == 2
    watch.now_ms = NOW_MS + AGE_MS
    assert await watch.heard() == [(HOME, FlushTrigger.AGE)]
    watch.now_ms += 1
    assert await watch.heard(2) == [(HOME, FlushTrigger.AGE), (RIVAL, FlushTrigger.AGE)]


async def test_the_last_child_that_leaves_takes_what_waits_along_and_the_timer_too():
    watch = Watch()
    watch.note(entries=1)
    watch.alarms.ring(HOME, FlushTrigger.GOODBYE)
    watch.alarms.ring(HOME, FlushTrigger.GOODBYE)
    await watch.alarms.settled()
    assert watch.asked == [(HOME, FlushTrigger.GOODBYE)]
    assert watch.alarms.armed == 0


async def test_nothing_waits_and_nobody_is_asked():
    watch = Watch()
    watch.note(entries=0, size_bytes=0)
    assert watch.alarms.armed == 0
    watch.alarms.ring(HOME, FlushTrigger.GOODBYE)
    await watch.alarms.stop()
    assert watch.asked == []


async def test_a_process_that_stops_asks_for_all_that_waits_and_stops_every_timer():
    watch = Watch()
    watch.note(entries=1)
    watch.note(entries=1, parent_id=RIVAL)
    await watch.alarms.stop()
    assert sorted(watch.asked) == [(HOME, FlushTrigger.SHUTDOWN), (RIVAL, FlushTrigger.SHUTDOWN)]
    assert watch.alarms.armed == 0


async def test_a_broker_that_is_down_is_logged_and_hurts_nobody(caplog):
    def refuse(*_):
        raise ConnectionRefusedError("no broker at this address")

    alarms = Alarms(refuse, now_ms=lambda: NOW_MS)
    with caplog.at_level(logging.ERROR, logger=alarm.__name__):
        alarms.note({HOME: Buffer(HOME, CONFIG, 1, 10, 100)})
        await alarms.settled()
    assert caplog.messages == [
        "cannot ask a worker to flush parent 1, the beat will: no broker at this address",
    ]


async def test_a_broker_that_does_not_answer_holds_up_nobody_else():
    answered = threading.Event()
    alarms = Alarms(lambda *_: answered.wait(10), now_ms=lambda: NOW_MS)
    alarms.note({HOME: Buffer(HOME, CONFIG, 1, 10, 100)})
    await asyncio.sleep(0)  # the loop goes round while the broker is silent
    answered.set()
    await alarms.settled()


class Journal:
    """What waits, as far as the alarms ask; `run` as an intake's."""

    def __init__(self, alarms):
        self.waiting = None
        self.looks = 0
        alarms.run = self.run

    async def run(self, work):
        assert work.func is alarm.waiting_of
        self.looks += 1
        if isinstance(self.waiting, Exception):
            raise self.waiting
        return self.waiting


async def until_looked(journal, number=1):
    async with asyncio.timeout(10):
        while journal.looks < number:
            await asyncio.sleep(0.001)


async def test_a_parent_that_was_flushed_by_a_threshold_was_held_in_memory_for_ever(hasty):
    watch = Watch()
    journal = Journal(watch.alarms)
    watch.note(entries=10)
    await until_looked(journal)
    async with asyncio.timeout(10):
        while watch.alarms._looking:
            await asyncio.sleep(0.001)
    assert (watch.alarms._alarms, watch.alarms.armed) == ({}, 0)
    assert watch.asked == [(HOME, FlushTrigger.ENTRIES)]


async def test_without_a_journal_to_look_at_the_timer_after_a_threshold_asks_and_forgets(hasty):
    watch = Watch()
    watch.note(entries=10)
    await watch.heard(2)
    assert (watch.alarms._alarms, watch.alarms.armed) == ({}, 0)


async def test_what_still_waits_after_a_threshold_is_asked_for_when_its_time_comes(hasty):
    watch = Watch()
    journal = Journal(watch.alarms)
    journal.waiting = Waiting(3, 100, NOW_MS, NOW_MS)
    watch.note(entries=10)
    await until_looked(journal, 2)
    assert watch.asked == [(HOME, FlushTrigger.ENTRIES)]
    watch.now_ms += AGE_MS
    assert await watch.heard(2) == [(HOME, FlushTrigger.ENTRIES), (HOME, FlushTrigger.AGE)]
    assert watch.alarms._alarms == {}


async def test_a_batch_that_comes_while_the_journal_is_looked_at_keeps_its_alarm(hasty):
    watch = Watch()
    looking, release = asyncio.Event(), asyncio.Event()

    async def slow(_):
        looking.set()
        await release.wait()

    watch.alarms.run = slow
    watch.note(entries=1)
    async with asyncio.timeout(10):
        await looking.wait()
        watch.now_ms += 1
        watch.note(entries=2)
    release.set()
    async with asyncio.timeout(10):
        while len(watch.alarms._looking) > 1:
            await asyncio.sleep(0.001)
    assert watch.alarms._alarms[HOME].waiting.entries == 2
    await watch.alarms.stop()


async def test_a_journal_that_is_away_does_not_silence_the_alarm(hasty):
    watch = Watch()
    journal = Journal(watch.alarms)
    journal.waiting = OperationalError("away")
    watch.note(entries=1)
    await until_looked(journal)
    watch.now_ms += AGE_MS
    assert await watch.heard() == [(HOME, FlushTrigger.AGE)]


@pytest.mark.django_db
def test_what_waits_is_told_by_one_row_when_nothing_does(django_assert_num_queries):
    home = parent()
    with django_assert_num_queries(1):
        assert alarm.waiting_of(home.pk) is None
    accept([(source(home), frame(1, run(1, 3)))], now_ms=NOW_MS)
    waiting = alarm.waiting_of(home.pk)
    assert (waiting.entries, waiting.oldest_ms) == (3, NOW_MS)


@pytest.mark.django_db(transaction=True)
async def test_a_parent_whose_children_all_sleep_holds_nothing_in_memory_after_a_threshold_flush(hasty):
    def flushed():
        Batch.objects.update(state=BatchState.PERSISTED)
        Parent.objects.update(pending_batches=0, pending_entries=0, pending_bytes=0)

    async with home_of_children(presence_interval_ms=10) as (opened, asked), socket() as child:
        opened.alarms.run = opened.intake.run
        clock = drowsy(opened)
        await child.ask(hello())
        await in_thread(lambda: Parent.objects.update(config={"flush_threshold_entries": 3}))
        await child.ask(wire(1, run(1, 3)))
        [parent_id] = {parent_id for parent_id, _ in await settled(opened, asked)}
        await in_thread(flushed)
        await asleep(opened, clock)
        async with asyncio.timeout(10):
            while opened.alarms._alarms or opened.alarms._looking or opened.presence._untold:
                await asyncio.sleep(0.01)
        assert (opened.dormitory.awake, opened.dormitory.asleep) == (0, 1)
        assert opened.alarms.armed == 0
        assert set(asked) == {(parent_id, FlushTrigger.ENTRIES)}


async def settled(opened, asked):
    async with asyncio.timeout(10):
        while not asked:
            await opened.alarms.settled()
            await asyncio.sleep(0.001)
    return asked
