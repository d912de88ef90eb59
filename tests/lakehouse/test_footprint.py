"""What is kept of a connection that sleeps, as its size is told."""

import asyncio
import sys

import pytest

from lakehouse.parent.footprint import size_bytes
from lakehouse.parent.hibernation import MEASURED_MAX, Dormitory
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_consumer import hello, socket
from tests.lakehouse.test_hibernation import asleep, drowsy
from tests.lakehouse.test_http_metrics import scraped


def made(name, module, slots, **values):
    kind = type(name, (), {"__slots__": slots, "__module__": module})
    one = kind()
    for key, value in values.items():
        setattr(one, key, value)
    return one


def test_an_object_is_as_large_as_what_it_alone_holds():
    text, common = "x" * 100, "y" * 1000
    inner = made("Inner", "lakehouse.inner", ("numbers",), numbers=[1, 2, 10**9])
    outer = made("Outer", "lakehouse.outer", ("text", "again", "inner", "common", "unset"), inner=inner)
    outer.text = outer.again = text
    outer.common = common
    parts = [outer, text, inner, inner.numbers, 10**9]
    assert size_bytes(outer, shared=[common]) == sum(map(sys.getsizeof, parts))
    assert size_bytes(outer) == sum(map(sys.getsizeof, parts)) + sys.getsizeof(common)


def test_what_others_made_is_not_counted_nor_what_it_holds():
    theirs = made("Theirs", "twisted.tcp", ("text",), text="x" * 10_000)
    dressed_up = type("Light", (), {"__module__": "lakehouse.parent.ballast"})()
    dressed_up.text = "x" * 10_000
    ours = made("Ours", "lakehouse.ours", ("theirs", "other"), theirs=theirs, other=dressed_up)
    assert size_bytes(ours) == sys.getsizeof(ours)


def test_what_leads_back_to_itself_is_counted_once():
    ring = []
    ring.append(ring)
    assert size_bytes(ring) == sys.getsizeof(ring)


async def test_a_task_counts_with_the_coroutines_it_waits_in():
    async def inner(text):
        await asyncio.Event().wait()
        return text

    async def outer():
        await inner("x")

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    coroutines = [task.get_coro(), task.get_coro().cr_await, task.get_coro().cr_await.cr_await]
    assert size_bytes(task) >= sum(map(sys.getsizeof, [task, *coroutines]))
    task.cancel()


class Sleeper:
    idle_since_ms = 0

    def __init__(self, size, measured):
        self._size, self._measured = size, measured

    def fall_asleep(self):
        return True

    @property
    def kept_bytes(self):
        self._measured.append(self)
        return self._size


async def test_a_hundred_of_many_sleepers_are_measured():
    measured, dormitory = [], Dormitory(after_ms=1, now_ms=lambda: 10)
    assert dormitory.kept_bytes() == 0
    for _ in range(3 * MEASURED_MAX):
        dormitory.up(Sleeper(700, measured))
    dormitory.look()
    assert (dormitory.asleep, dormitory.kept_bytes(), len(measured)) == (3 * MEASURED_MAX, 700, MEASURED_MAX)
    await dormitory.stop()


@pytest.mark.django_db(transaction=True)
async def test_a_child_with_a_longer_name_is_remembered_with_more_bytes():
    short = await told("s")
    long = await told("s" * 500)
    assert 400 < short < 8192
    assert 499 <= long - short <= 499 * 3


async def told(name):
    """What /metrics and /status say of one that sleeps."""
    async with home() as (opened, _), socket() as child:
        clock = drowsy(opened)
        assert (await scraped())["dolake_hibernating_connection_bytes",] == 0
        await child.ask(hello(name=name))
        await asleep(opened, clock)
        size = (await scraped())["dolake_hibernating_connection_bytes",]
        seen = (await ask("GET", "/status")).json["rateLimitMetrics"]
        assert (seen["hibernatingConnections"], seen["hibernatingConnectionBytes"]) == (1, size)
        return size
