"""Sleeping connections: what they keep, what they answer, and how they go on."""

import asyncio
import json
import threading

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from lakehouse.limits.allowance import PACKED
from lakehouse.models import AccessKey, Batch, Child
from lakehouse.parent import access
from lakehouse.parent.attachment import BYTES_MAX, Attachment
from lakehouse.parent.hibernation import answer_asleep
from rpc.messages import AckStatus, HeartbeatMessage, NackReason
from rpc.protocol import encode_message
from tests.builders import NOW_MS, parent, run, wire
from tests.lakehouse.test_consumer import hello, home, socket
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

HEARTBEAT = encode_message(HeartbeatMessage(timestamp=7, source_do_id="shop-1"))


class Clock:
    def __init__(self, now_ms):
        self.now_ms = now_ms

    def __call__(self):
        return self.now_ms


def drowsy(opened):
    """A house whose time stands still until somebody moves it."""
    clock = Clock(opened.now_ms())
    opened.now_ms = opened.dormitory._now_ms = opened.admissions._now_ms = clock
    return clock


async def asleep(opened, clock, count=1):
    """Let so much time pass that everybody sleeps."""
    clock.now_ms += 10_000
    async with asyncio.timeout(5):
        while opened.dormitory.asleep < count:
            opened.dormitory.look()
            await asyncio.sleep(0)


async def state():
    return await in_thread(lambda: Child.objects.get().state)


async def test_a_silent_connection_sleeps_and_wakes_with_its_next_batch_as_if_it_had_not():
    async with home() as (opened, _), socket() as child:
        clock = drowsy(opened)
        await child.ask(hello())
        for sequence in (1, 2):
            await child.ask(wire(sequence, run(sequence, sequence)))
        await asleep(opened, clock)
        assert (opened.dormitory.awake, opened.dormitory.asleep) == (0, 1)
        assert (await child.ask(wire(2, run(2, 2)))).status is AckStatus.DUPLICATE
        assert (await child.ask(wire(3, run(3, 3)))).status is AckStatus.OK
        refused = await child.ask(wire(3, run(3, 4)))
        assert (refused.reason, refused.should_retry) == (NackReason.INVALID_SEQUENCE, False)
        assert (opened.dormitory.awake, opened.dormitory.asleep) == (1, 0)
    assert await in_thread(Batch.objects.count) == 3


async def test_a_child_without_an_epoch_keeps_its_counted_one_over_a_sleep():
    async with home() as (opened, _), socket() as child:
        clock = drowsy(opened)
        await child.ask(wire(1, run(1, 1)))
        await asleep(opened, clock)
        await child.ask(wire(2, run(2, 2)))
        assert await in_thread(lambda: Batch.objects.values("epoch").distinct().count()) == 1


async def test_ping_and_heartbeats_are_answered_asleep_without_the_database(monkeypatch):
    async with home() as (opened, _), socket() as child:
        clock = drowsy(opened)
        await child.ask(hello())
        await asleep(opened, clock)
        jobs = []
        monkeypatch.setattr(opened.intake, "run", jobs.append)
        assert await child.ask("ping") == "pong"
        pong = await child.ask(HEARTBEAT)
        assert (pong.timestamp, pong.server_time) == (7, clock.now_ms)
        assert (jobs, opened.dormitory.asleep) == ([], 1)
        monkeypatch.undo()


async def test_a_flood_of_heartbeats_wakes_the_connection_which_counts_them():
    async with home(heartbeat_burst_capacity=3) as (opened, _), socket() as child:
        clock = drowsy(opened)
        await child.ask(hello())
        await asleep(opened, clock)
        for _ in range(100):
            await child.ask(HEARTBEAT)
        assert opened.dormitory.asleep == 1
        await child.ask(HEARTBEAT)
        assert opened.dormitory.asleep == 0


async def test_where_a_child_is_stands_in_its_row_and_is_written_in_bulk():
    async with home(presence_interval_ms=10) as (opened, _):
        clock = drowsy(opened)
        async with socket() as child:
            await child.ask(hello())
            assert await state() == "awake"
            await asleep(opened, clock)
            while await state() != "hibernating":
                await asyncio.sleep(0.01)
            await child.ask(wire(1, run(1, 1)))
            while await state() != "awake":
                await asyncio.sleep(0.01)
        while await state() != "gone":
            await asyncio.sleep(0.01)


async def test_heartbeats_of_many_children_are_one_update():
    async with home(presence_interval_ms=3_600_000) as (opened, _):
        ids = await in_thread(lambda: [row.pk for row in _children(300)])
        for child_id in ids:
            opened.presence.arrived(child_id)
            for _ in range(3):
                opened.presence.heard(child_id)
        counted = []

        async def counting(work):
            def counted_work():
                with CaptureQueriesContext(connection) as queries:
                    work()
                counted.extend(queries.captured_queries)

            await opened.intake.run(counted_work)

        opened.presence._run = counting
        await opened.presence.stop()
        assert [row["sql"].split()[:2] for row in counted] == [
            ["UPDATE", '"lakehouse_holder"'],
            ["UPDATE", '"lakehouse_child"'],
        ]
        assert await in_thread(lambda: Child.objects.filter(state="hibernating").count()) == 300


def _children(count):
    home = parent()
    return Child.objects.bulk_create([Child(parent=home, name=f"c{number}") for number in range(count)])


async def test_a_connection_with_a_batch_under_way_does_not_sleep():
    async with home() as (opened, _), socket() as child:
        clock = drowsy(opened)
        await child.ask(hello())
        release = threading.Event()
        opened.intake.post(release.wait)
        try:
            await child.say(wire(1, run(1, 1)))
            while not opened.intake.waiting_bytes:
                await asyncio.sleep(0)
            clock.now_ms += 60_000
            opened.dormitory.look()
            assert opened.dormitory.asleep == 0
        finally:
            release.set()
        assert (await child.hear()).status is AckStatus.OK


async def test_a_key_that_was_revoked_while_its_child_slept_opens_nothing_any_more():
    row, token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=1))
    async with home(open=False) as (opened, _), socket(token=token) as child:
        clock = drowsy(opened)
        await child.ask(hello())
        await asleep(opened, clock)
        await in_thread(lambda: AccessKey.objects.filter(pk=row.pk).update(revoked_ms=1))
        assert await child.ask(wire(1, run(1, 1))) == 1008
    assert await in_thread(Batch.objects.count) == 0


async def test_a_connection_that_has_not_said_who_it_is_may_sleep_too():
    async with home() as (opened, _), socket(headers=[(b"x-client-id", b"shop-9")]) as child:
        clock = drowsy(opened)
        await asleep(opened, clock)
        assert await child.ask("ping") == "pong"
        await child.ask(wire(1, run(1, 1), source="somebody-else"))
    assert await in_thread(lambda: Child.objects.get().name) == "shop-9"


async def test_rate_limits_do_not_grow_back_faster_asleep():
    settings = {"messages_per_second": 1, "window_batches_max": 12}
    async with home(**settings) as (opened, _), socket() as child:
        clock = drowsy(opened)
        await child.ask(hello())
        for sequence in range(1, 12):
            assert (await child.ask(wire(sequence, run(sequence, sequence)))).type == "ack"
        assert (await child.ask(wire(12, run(12, 12)))).reason is NackReason.RATE_LIMITED
        await asleep(opened, clock)
        answers = [await child.ask(wire(sequence, run(sequence, sequence))) for sequence in range(12, 24)]
        assert [answer.type for answer in answers] == ["ack"] * 10 + ["nack"] * 2


async def test_a_newer_connection_takes_the_place_of_one_that_sleeps():
    async with home(max_connections_per_source=1) as (opened, _), socket() as old:
        clock = drowsy(opened)
        await old.ask(hello())
        await asleep(opened, clock)
        async with socket() as new:
            await new.ask(hello())
            assert await old.hear() == 1013
            assert (await new.ask(wire(1, run(1, 1)))).status is AckStatus.OK


def attachment(**fields):
    return Attachment(parent_id=1, key_id=2, dialect="rpc", allowance=bytes(PACKED.size), checked_ms=NOW_MS, **fields)


def test_an_attachment_survives_its_bytes():
    kept = attachment(child_id=3, epoch=NOW_MS, own_epoch=True, encodings=["columns", "arrow"], compressions=["zstd"])
    assert Attachment.unpack(kept.pack()) == kept
    assert len(kept.pack()) < 100


def test_an_attachment_never_has_more_than_2048_bytes():
    assert attachment(source="s" * 1900).pack() is not None
    assert len(attachment(source="s" * 1900).pack()) <= BYTES_MAX
    assert attachment(source="✓" * 500, shard="✓" * 500).pack() is None


@pytest.mark.parametrize("junk", [b"", b"\x90", b"\xff" * 100, json.dumps([1]).encode()])
def test_bytes_that_are_no_attachment_are_said_to_be_none(junk):
    with pytest.raises(ValueError, match="are no attachment"):
        Attachment.unpack(junk)


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "pong",
        "{}",
        '{"type":"heartbeat"}',
        '{"type":"connect","timestamp":1,"sourceDoId":"s"}',
        b"\xff",
        "x" * 5000,
    ],
)
def test_only_pings_and_heartbeats_are_answered_asleep(frame):
    assert answer_asleep(frame, now_ms=1) is None
