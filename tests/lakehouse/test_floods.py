"""Children that say more than they may: each hears why, and nobody else has to wait for it."""

import pytest

from lakehouse.parent.unfinished import WITHIN_S, Part, Unfinished
from tests.lakehouse.test_consumer import Socket, home

pytestmark = pytest.mark.django_db(transaction=True)

HEARTBEAT = '{"type":"heartbeat","timestamp":7,"sourceDoId":"do-1","lastAckSequence":-1}'


@pytest.mark.parametrize(("frame", "answers"), [("{", 5), (HEARTBEAT, 2), ("ping", 2)])
async def test_who_floods_is_not_read_for_a_moment(frame, answers):
    limits = {"messages_per_second": 1, "burst_capacity": 2, "heartbeats_per_second": 1, "heartbeat_burst_capacity": 2}
    async with home(**limits) as (opened, _):
        now_ms = opened.now_ms()
        opened.now_ms = lambda: now_ms
        shop = Socket(headers=[(b"x-client-id", b"do-1")])
        assert await shop.open()
        [consumer] = opened.dormitory.everybody()
        pauses = [consumer._hear(frame) for _ in range(5)]
        assert [pause is not None for pause in pauses] == [False, False, True, True, True]
        for pause in pauses[2:]:
            await pause
        assert [bool(await shop.hear()) for _ in range(answers)] == [True] * answers
        await shop.leave()
        assert shop.output_queue.empty()


def test_messages_in_part_share_a_bound_which_those_that_end_give_back():
    everybody = Unfinished(bytes_max=100)
    one, other = Part(everybody), Part(everybody)
    assert one.is_held(60, of="a", now_s=0)
    assert not other.is_held(60, of="b", now_s=0)
    assert other.is_held(0, of=None, now_s=0)
    assert one.is_held(100, of="a", now_s=0)
    assert one.is_held(0, of=None, now_s=0)
    assert everybody.held_bytes == 0


def test_a_message_that_does_not_end_is_late_from_its_beginning_on():
    part = Part(Unfinished(bytes_max=100))
    part.is_held(1, of="a", now_s=5)
    part.is_held(2, of="a", now_s=50)
    assert not part.is_late(now_s=5 + WITHIN_S)
    assert part.is_late(now_s=6 + WITHIN_S)
    part.is_held(0, of=None, now_s=66)
    assert not part.is_late(now_s=1000)


def test_who_sends_message_after_message_for_hours_is_never_late():
    part = Part(Unfinished(bytes_max=100))
    for second in range(10_000):
        part.is_held(50, of=object(), now_s=second)
        assert not part.is_late(now_s=second + 1)
