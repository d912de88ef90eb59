"""Children that wait for a flush, however many, cost the journal one look and the broker one task."""

import asyncio
import contextlib

import pytest
from django.db import OperationalError, transaction

from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.models import Batch, BatchState, Flush, FlushState
from lakehouse.parent import flush_watch
from lakehouse.parent.flush_watch import IDLE_MS, LOST_MS, FlushWatch
from tests.builders import NOW_MS, frame, parent, run, source
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)


class Watched:
    """A watch, what it asked for, and a worker that the test plays."""

    def __init__(self):
        self.looks, self.asked, self.now_ms = 0, [], NOW_MS
        self.hears = True
        """Whether a worker hears of what is asked; None is a broker that says nothing."""
        self.watch = FlushWatch(self._run, self._ask, now_ms=lambda: self.now_ms)

    async def _run(self, work):
        self.looks += 1
        return await in_thread(work)

    def _ask(self, *what):
        self.asked.append(what)
        heard = asyncio.get_running_loop().create_future()
        if self.hears is not None:
            heard.set_result(self.hears)
        return heard

    async def looked(self, times=1):
        """So many looks begin and end from now on."""
        async with asyncio.timeout(10):
            until = self.looks + times + 1
            while self.looks < until:
                await asyncio.sleep(0.001)

    def wait(self, home, count=1):
        return [asyncio.create_task(self.watch.flushed(home.pk)) for _ in range(count)]


@contextlib.asynccontextmanager
async def watched(monkeypatch):
    monkeypatch.setattr(flush_watch, "LOOK_EVERY_MS", 1)
    found = Watched()
    yield found
    await found.watch.stop()


async def journalled(home, *sequences):
    shop = await in_thread(lambda: source(home, epoch=5))
    for sequence in sequences:
        await in_thread(lambda n=sequence: accept([(shop, frame(n, run(n, n)))], now_ms=NOW_MS))


@transaction.atomic
def flush(home, number=1, **which):
    batches = Batch.objects.filter(parent=home, state=BatchState.PENDING, **which)
    count = batches.update(state=BatchState.PERSISTED)
    Flush.objects.create(
        parent=home,
        trigger="manual",
        lease_epoch=1,
        state=FlushState.COMMITTED,
        started_ms=NOW_MS,
        batches=count,
        entries=count,
        commit_number=number,
    )


async def test_four_hundred_children_that_ask_at_once_are_one_look_and_one_task(monkeypatch):
    home = await in_thread(parent)
    await journalled(home, 1, 2)
    async with watched(monkeypatch) as found:
        waiters = found.wait(home, 400)
        await found.looked(3)
        assert found.watch.waiting == 400
        assert found.looks <= 5
        assert found.asked == [(home.pk, FlushTrigger.MANUAL)]
        found.now_ms += 70
        await in_thread(lambda: flush(home))
        results = await asyncio.gather(*waiters)
    assert {(one.success, one.batches_flushed, one.duration_ms) for one in results} == {(True, 2, 70)}
    assert found.watch.waiting == 0


async def test_who_comes_while_a_flush_runs_waits_for_what_came_meanwhile_and_gets_a_task_of_its_own(monkeypatch):
    home = await in_thread(parent)
    await journalled(home, 1)
    async with watched(monkeypatch) as found:
        [early] = found.wait(home)
        await found.looked()
        await journalled(home, 2)
        [late] = found.wait(home)
        await found.looked(2)
        assert len(found.asked) == 1
        await in_thread(lambda: flush(home, sequence=1))
        assert (await early).batches_flushed == 1
        await found.looked()
        assert (late.done(), len(found.asked)) == (False, 2)
        await in_thread(lambda: flush(home, number=2))
        assert (await late).batches_flushed == 2


async def test_who_asks_and_leaves_again_and_again_makes_one_task(monkeypatch):
    home = await in_thread(parent)
    await journalled(home, 1)
    async with watched(monkeypatch) as found:
        for _ in range(5):
            [waiter] = found.wait(home)
            await found.looked()
            waiter.cancel()
            await asyncio.wait([waiter])
            assert found.watch.waiting == 0
        assert len(found.asked) == 1
        found.now_ms += LOST_MS
        found.wait(home)
        await found.looked()
        assert len(found.asked) == 2


async def test_an_idle_parent_answers_at_once_and_asks_a_worker_once_a_second(monkeypatch):
    home = await in_thread(parent)
    async with watched(monkeypatch) as found:
        for _ in range(3):
            results = await asyncio.gather(*found.wait(home, 5))
            assert [(one.success, one.batches_flushed) for one in results] == [(True, 0)] * 5
        assert len(found.asked) == 1
        found.now_ms += IDLE_MS
        await asyncio.gather(*found.wait(home))
        assert len(found.asked) == 2


async def test_nobody_looks_while_nobody_waits(monkeypatch):
    home = await in_thread(parent)
    await journalled(home, 1)
    async with watched(monkeypatch) as found:
        [waiter] = found.wait(home)
        await found.looked()
        waiter.cancel()
        await asyncio.wait([waiter, found.watch._looking])
        looks = found.looks
        await asyncio.sleep(0.02)
        assert found.looks == looks


async def test_more_parents_than_one_look_takes_have_their_turn(monkeypatch):
    monkeypatch.setattr(flush_watch, "PARENTS_MAX", 2)
    homes = [await in_thread(lambda n=number: parent(f"p{n}")) for number in range(5)]
    for home in homes[:3]:
        await journalled(home, 1)
    async with watched(monkeypatch) as found:
        waiters = [found.wait(home)[0] for home in homes]
        assert {(await waiter).success for waiter in waiters[3:]} == {True}
        assert {parent_id for parent_id, _ in found.asked} == {home.pk for home in homes}


@pytest.mark.parametrize(
    ("error", "said"),
    [(OperationalError("away"), "the journal is not available"), (ValueError("ours"), "by a mistake of the parent")],
)
async def test_a_look_that_fails_is_an_answer_and_the_next_one_works(monkeypatch, error, said):
    home = await in_thread(parent)
    async with watched(monkeypatch) as found:
        with monkeypatch.context() as broken:
            broken.setattr(flush_watch, "looks_at", lambda _: (_ for _ in ()).throw(error))
            [result] = await asyncio.gather(*found.wait(home))
            assert (result.success, said in result.error) == (False, True)
        [result] = await asyncio.gather(*found.wait(home))
        assert result.success


async def test_who_waits_when_the_process_stops_hears_it_and_so_does_who_comes_later(monkeypatch):
    home = await in_thread(parent)
    await journalled(home, 1)
    async with watched(monkeypatch) as found:
        [waiter] = found.wait(home)
        await found.looked()
        await found.watch.stop()
        [late] = found.wait(home)
        assert {(await one).error for one in (waiter, late)} == {flush_watch.STOPPED}
        assert found.watch._looking.done()


async def test_who_asks_for_tables_while_the_rows_wait_in_the_fallback_hears_so(monkeypatch):
    home = await in_thread(parent)
    await journalled(home, 1, 2)
    await in_thread(lambda: Batch.objects.filter(sequence=1).update(state=BatchState.FALLBACK))
    await in_thread(lambda: Batch.objects.filter(sequence=2).update(state=BatchState.PERSISTED))
    async with watched(monkeypatch) as found:
        [asked] = found.wait(home)
        result = await asked
    assert (result.success, result.used_fallback) == (False, True)
    assert result.error == flush_watch.KEPT


async def test_who_waits_while_the_broker_is_away_hears_so_at_once_and_the_next_one_asks_again(monkeypatch):
    home = await in_thread(parent)
    await journalled(home, 1)
    async with watched(monkeypatch) as found:
        found.hears = False
        answers = [await waiting for waiting in found.wait(home, 3)]
        assert {(answer.success, answer.error) for answer in answers} == {(False, flush_watch.UNHEARD)}
        assert len(found.asked) == 1
        found.hears = True
        [waiting] = found.wait(home)
        await found.looked()
        await in_thread(lambda: flush(home))
        assert (await waiting).success
        assert len(found.asked) == 2


async def test_a_broker_that_says_nothing_is_asked_once_and_waited_for_no_longer_than_so_long(monkeypatch):
    home = await in_thread(parent)
    await journalled(home, 1)
    async with watched(monkeypatch) as found:
        found.hears = None
        [first] = found.wait(home)
        await found.looked(3)
        assert not first.done()
        found.now_ms += flush_watch.HEARD_MS
        assert (await first).error == flush_watch.UNHEARD
        [second] = found.wait(home)
        assert (await second).error == flush_watch.UNHEARD
        assert len(found.asked) == 1
