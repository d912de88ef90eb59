import asyncio
import contextlib
import itertools
import sqlite3
import threading

import pytest
from django.db import OperationalError, connection, transaction

from lakehouse.conf import Settings
from lakehouse.journal.accept import FORGOTTEN, Accepted, Refused
from lakehouse.journal.intake import Intake, Offer
from lakehouse.metrics import COMMIT_SECONDS
from lakehouse.models import Batch, Parent
from rpc.messages import AckStatus, NackReason
from tests.builders import NOW_MS, frame, parent, run, source

pytestmark = pytest.mark.django_db(transaction=True)


class Desk:
    """An intake, and the answers it gave."""

    def __init__(self, **settings):
        self.buffers = []
        self.answers = {}
        self.intake = Intake(Settings(**settings), now_ms=lambda: NOW_MS, on_commit=self.buffers.append)

    def offer(self, connection, batch):
        self.intake.offer(Offer(connection, batch, self._answer))

    def _answer(self, batch, verdict):
        self.answers[batch.source, batch.sequence] = verdict


@contextlib.asynccontextmanager
async def desk(**settings):
    opened = Desk(**settings)
    yield opened
    await opened.intake.stop()


async def in_thread(work):
    return await asyncio.to_thread(lambda: (work(), connection.close())[0])


async def test_what_waits_from_all_sockets_shares_one_transaction():
    home = await in_thread(parent)
    shops = [await in_thread(lambda name=name: source(home, name)) for name in ("a", "b", "c")]
    async with desk() as opened:
        for number in range(1, 21):
            for shop, name in zip(shops, "abc", strict=True):
                opened.offer(shop, frame(number, run(number, number), source=name))
        await opened.intake.drained()
        assert {verdict.status for verdict in opened.answers.values()} == {AckStatus.OK}
        assert len(opened.answers) == 60
        assert len(opened.buffers) < 60
        assert opened.buffers[-1][home.pk].entries == 60
    assert await in_thread(Batch.objects.count) == 60


async def test_a_batch_is_in_the_journal_when_its_answer_arrives():
    home = await in_thread(parent)
    shop = await in_thread(lambda: source(home))
    async with desk() as opened:
        opened.offer(shop, frame(1, run(1, 2)))
        await opened.intake.drained()
        assert isinstance(opened.answers["shop-1", 1], Accepted)
        database = connection.settings_dict["NAME"]
        if connection.vendor == "sqlite":
            with contextlib.closing(sqlite3.connect(database)) as stranger:
                assert stranger.execute("SELECT count(*) FROM lakehouse_batch").fetchone() == (1,)


async def test_a_locked_database_is_answered_with_a_time_to_come_back_and_nothing_is_stored():
    home = await in_thread(parent)
    shop = await in_thread(lambda: source(home))
    async with desk() as opened:
        await opened.intake.run(impatient)
        async with locked(home):
            opened.offer(shop, frame(1, run(1, 2)))
            await opened.intake.drained()
        verdict = opened.answers["shop-1", 1]
        assert isinstance(verdict, Refused)
        assert verdict.reason is NackReason.INTERNAL_ERROR
        assert await in_thread(Batch.objects.count) == 0
        opened.offer(shop, frame(1, run(1, 2)))
        await opened.intake.drained()
        assert opened.answers["shop-1", 1].status is AckStatus.OK


@pytest.mark.parametrize(("apart_s", "lines"), [(0.1, ["1"]), (10.0, ["1", "1", "1"]), (5.0, ["1", "2"])])
async def test_a_disk_that_stays_full_is_not_filled_with_lines_that_say_so(monkeypatch, caplog, apart_s, lines):
    def full(*_, **__):
        raise OperationalError("database or disk is full")

    monkeypatch.setattr("lakehouse.journal.intake.accept", full)
    shop = await in_thread(lambda: source(parent()))
    async with desk() as opened:
        clock = itertools.count(0, apart_s)
        opened.intake._clock_s = lambda: next(clock)
        for number in (1, 2, 3):
            opened.offer(shop, frame(number, run(number, number)))
            await opened.intake.drained()
        assert {verdict.reason for verdict in opened.answers.values()} == {NackReason.INTERNAL_ERROR}
    said = [record.message for record in caplog.records if record.name == "lakehouse.journal.intake"]
    assert said == [f"journal is not available, {n} batches refused for now: database or disk is full" for n in lines]


def impatient():
    """The writer's connection gives up on a lock soon."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 50" if connection.vendor == "sqlite" else "SET lock_timeout = 50")


@contextlib.asynccontextmanager
async def locked(home):
    """Somebody else is in the middle of a transaction on the parent."""
    held, release = threading.Event(), threading.Event()

    def hold():
        with transaction.atomic():
            Parent.objects.select_for_update().get(pk=home.pk)
            held.set()
            release.wait()

    holding = asyncio.create_task(in_thread(hold))
    await asyncio.to_thread(held.wait)
    yield
    release.set()
    await holding


async def test_one_batch_that_cannot_be_stored_does_not_take_the_group_with_it():
    home = await in_thread(parent)
    shop = await in_thread(lambda: source(home))
    stranger = await in_thread(lambda: source(home, "gone"))
    stranger.epoch = 2**64
    async with desk() as opened:
        opened.offer(shop, frame(1, run(1, 2)))
        opened.offer(stranger, frame(1, run(1, 2), source="gone"))
        opened.offer(shop, frame(2, run(3, 4)))
        await opened.intake.drained()
        assert opened.answers["shop-1", 1].status is AckStatus.OK
        assert opened.answers["shop-1", 2].status is AckStatus.OK
        assert opened.answers["gone", 1].reason is NackReason.INTERNAL_ERROR


@pytest.mark.parametrize("gone", ["child_id", "parent_id"])
async def test_a_deleted_child_is_told_so_and_the_group_stays_together(gone, caplog):
    home = await in_thread(parent)
    shop = await in_thread(lambda: source(home))
    stranger = await in_thread(lambda: source(home, "gone"))
    setattr(stranger, gone, 10**9)
    release = threading.Event()
    async with desk() as opened:
        opened.intake.post(release.wait)
        opened.offer(shop, frame(1, run(1, 2)))
        opened.offer(stranger, frame(1, run(1, 2), source="gone"))
        opened.offer(shop, frame(2, run(3, 4)))
        release.set()
        await opened.intake.drained()
        assert [opened.answers["shop-1", number].status for number in (1, 2)] == [AckStatus.OK, AckStatus.OK]
        assert opened.answers["gone", 1] is FORGOTTEN
        assert sum(opened.intake.commits.counts) == 1
    assert caplog.records == []


async def test_what_waits_is_bounded():
    async with desk(intake_bytes_max=1024 * 1024, group_bytes_max=1024) as opened:
        assert opened.intake.has_room(1024 * 1024)
        assert not opened.intake.has_room(1024 * 1024 + 1)


async def test_stopping_answers_what_was_handed_in():
    home = await in_thread(parent)
    shop = await in_thread(lambda: source(home))
    opened = Desk()
    for number in range(1, 101):
        opened.offer(shop, frame(number, run(number, number)))
    await opened.intake.stop()
    await asyncio.sleep(0)
    assert len(opened.answers) == 100


async def test_one_connection_that_cannot_be_answered_does_not_silence_the_others():
    home = await in_thread(parent)
    shop = await in_thread(lambda: source(home))
    async with desk() as opened:

        def fail(*_):
            raise ValueError("this connection is broken")

        opened.intake.offer(Offer(shop, frame(1, run(1, 1)), fail))
        opened.offer(shop, frame(2, run(2, 2)))
        await opened.intake.drained()
        assert opened.answers["shop-1", 2].status is AckStatus.OK
        assert opened.buffers


async def test_children_hear_that_their_batches_are_durable_when_nobody_else_can_be_told(caplog):
    shop = await in_thread(lambda: source(parent()))
    async with desk() as opened:

        def fail(_):
            raise ValueError("nobody listens")

        opened.intake._on_commit = fail
        opened.offer(shop, frame(1, run(1, 1)))
        opened.offer(shop, frame(2, run(2, 2)))
        await opened.intake.drained()
        assert [opened.answers["shop-1", number].status for number in (1, 2)] == [AckStatus.OK] * 2
    assert "a commit was not told" in caplog.text


async def test_a_commit_is_timed_and_one_that_failed_is_none():
    home = await in_thread(parent)
    shop = await in_thread(lambda: source(home))
    opened, ticks = Desk(), iter([10.0, 10.004, 20.0, 30.0, 37.0])
    opened.intake._clock_s = lambda: next(ticks)
    opened.offer(shop, frame(1, run(1, 1)))
    await opened.intake.drained()
    await opened.intake.run(impatient)
    async with locked(home):
        opened.offer(shop, frame(2, run(2, 2)))
        await opened.intake.drained()
    opened.offer(shop, frame(2, run(2, 2)))
    await opened.intake.stop()
    counts = dict(zip([*COMMIT_SECONDS, "more"], opened.intake.commits.counts, strict=True))
    assert {bound: count for bound, count in counts.items() if count} == {0.005: 1, "more": 1}
    assert round(opened.intake.commits.total_s, 3) == 7.004
