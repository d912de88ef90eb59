"""What a process tells of its children, in bulk, and what others may have said meanwhile."""

import asyncio
import contextlib
import threading

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from lakehouse.models import Child, ConnectionState
from lakehouse.models.parents import Holder
from lakehouse.parent import arrivals, leases
from lakehouse.parent.arrivals import Admitted
from lakehouse.parent.presence import Presence
from tests.builders import NOW_MS, parent, run, wire
from tests.lakehouse.test_consumer import hello, home, socket
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

SOON_MS, NEVER_MS = 10, 3_600_000


class Process:
    """A process as far as it holds children."""

    def __init__(self, name, *, interval_ms=NEVER_MS):
        self.now_ms = NOW_MS
        self.is_database_away = False
        self.statements = []
        self.presence = Presence(self._run, interval_ms=interval_ms, now_ms=lambda: self.now_ms, holder=name)
        self.name = name

    async def _run(self, work):
        if self.is_database_away:
            raise OperationalError("away")

        def counted():
            with CaptureQueriesContext(connection) as queries:
                work_done.append(work())
            self.statements += [row["sql"] for row in queries.captured_queries]

        work_done = []
        await in_thread(counted)
        return work_done[0]

    async def arrives(self, name="shop-1"):
        def there():
            admitted = Admitted((Child.objects.first() or Child(parent=parent())).parent_id, None)
            return arrivals.arrive(
                admitted, name, shard=None, epoch=1, now_ms=self.now_ms, holder=self.name
            ).source.child_id

        child_id = await in_thread_value(there)
        self.presence.arrived(child_id)
        return child_id

    async def tells(self):
        await self.presence._keep_lease()
        await self.presence._tell()


async def in_thread_value(work):
    found = []
    await in_thread(lambda: found.append(work()))
    return found[0]


async def state(name="shop-1"):
    return await in_thread_value(
        lambda: Child.objects.annotate(shown=leases.state(now_ms=NOW_MS)).values_list("shown", flat=True).get(name=name)
    )


@contextlib.asynccontextmanager
async def processes(*names):
    found = [Process(name) for name in names]
    yield found
    for process in found:
        await process.presence.stop()


async def test_a_child_that_reconnects_within_the_interval_was_shown_gone():
    async with processes("a:1:x") as [process]:
        child_id = await process.arrives()
        process.presence.left(child_id)
        await process.arrives()
        await process.tells()
        assert await state() == "awake"


async def test_a_busy_child_that_reconnected_was_shown_gone():
    async with home(presence_interval_ms=SOON_MS) as (opened, _):
        for epoch in (5, 6):
            async with socket() as child:
                await child.ask(hello(epoch=epoch))
                await child.ask(wire(1, run(1, 1)))
                if epoch == 6:
                    async with asyncio.timeout(10):
                        while opened.presence._untold or opened.presence._being_told:
                            await asyncio.sleep(0.01)
                    assert await in_thread_value(lambda: Child.objects.get().state) == "awake"


async def test_a_child_that_came_back_while_its_leaving_was_written_is_told_anew():
    async with processes("a:1:x") as [process]:
        child_id = await process.arrives()
        process.presence.left(child_id)
        release, ran = threading.Event(), process.presence._run

        async def slow(work):
            await asyncio.to_thread(release.wait, 10)
            return await ran(work)

        process.presence._run = slow
        telling = asyncio.create_task(process.presence._tell())
        while child_id not in process.presence._being_told:
            await asyncio.sleep(0)
        await process.arrives()
        release.set()
        await telling
        assert await state() == "gone"
        await process.presence._tell()
        assert await state() == "awake"


async def test_a_child_that_moved_to_another_process_was_shown_gone_by_the_old_one():
    async with processes("a:1:x", "b:2:y") as (old, new):
        child_id = await old.arrives()
        old.presence.slept(child_id)
        await new.arrives()
        await old.tells()
        assert await state() == "awake"
        old.presence.left(child_id)
        await old.tells()
        assert await state() == "awake"
        new.presence.left(child_id)
        await new.tells()
        assert await state() == "gone"


async def test_a_child_that_is_heard_of_where_it_is_still_connected_is_here():
    async with processes("a:1:x", "b:2:y") as (one, other):
        child_id = await one.arrives()
        await other.arrives()
        other.presence.left(child_id)
        await other.tells()
        one.presence.heard(child_id)
        await one.tells()
        assert await state() == "hibernating"
        assert await in_thread_value(lambda: Child.objects.get().holder) == "a:1:x"


async def test_a_process_that_was_given_up_while_the_database_was_away_tells_of_everybody_again():
    async with processes("a:1:x") as [process]:
        await process.arrives()
        process.presence.slept(await process.arrives("shop-2"))
        await process.tells()
        process.now_ms += 2 * leases.lease_ms(NEVER_MS)
        await in_thread(lambda: leases.bury(now_ms=process.now_ms))
        assert await state() == "gone"
        await process.tells()
        assert (await state(), await state("shop-2")) == ("awake", "hibernating")


async def test_a_shutdown_with_a_database_that_is_away_leaves_nobody_awake_for_ever(caplog):
    process = Process("a:1:x")
    child_id = await process.arrives()
    process.presence.left(child_id)
    process.is_database_away = True
    await process.presence.stop()
    assert "it runs out by itself" in caplog.text
    assert await in_thread_value(lambda: Child.objects.get().state) == "awake"
    until_ms = await in_thread_value(lambda: Holder.objects.get().lease_until_ms)
    here = Child.objects.filter(leases.here(now_ms=until_ms))
    assert not await in_thread_value(here.exists)


async def test_a_process_whose_children_all_sleep_writes_one_row_an_interval():
    async with processes("a:1:x") as [process]:
        for number in range(20):
            process.presence.slept(await process.arrives(f"shop-{number}"))
        await process.tells()
        process.statements.clear()
        for _ in range(3):
            await process.tells()
        written = [sql for sql in process.statements if sql.startswith(("UPDATE", "INSERT", "DELETE"))]
        assert len(written) == 3
        assert all('"lakehouse_holder"' in sql for sql in written)


async def test_the_lease_is_renewed_as_long_as_anybody_is_here_and_then_nothing_runs():
    process = Process("a:1:x", interval_ms=SOON_MS)
    child_id = await process.arrives()
    first = await in_thread_value(lambda: Holder.objects.get().lease_until_ms)
    process.now_ms += 60_000
    async with asyncio.timeout(10):
        while await in_thread_value(lambda: Holder.objects.get().lease_until_ms) == first:
            await asyncio.sleep(0.01)
        process.presence.left(child_id)
        await process.presence._telling
    assert await in_thread_value(lambda: Child.objects.get().state) == ConnectionState.GONE
    await process.presence.stop()


async def test_children_of_other_processes_are_counted_in_the_status_too():
    async with home() as (opened, _), socket() as child:
        await child.ask(hello())
        await in_thread(
            lambda: arrivals.arrive(
                Admitted(Child.objects.get().parent_id, None),
                "shop-2",
                shard=None,
                epoch=1,
                now_ms=opened.now_ms(),
                holder="b:2:y",
            )
        )
        async with socket() as third:
            assert (await third.ask(hello(name="shop-3"))).connected_children == 3
