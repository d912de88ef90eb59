import pytest

from lakehouse.flush.policy import FlushTrigger, Waiting, due, due_at_ms
from rpc.config import ParentConfig

CONFIG = ParentConfig(
    flush_threshold_entries=10, flush_threshold_bytes=1000, flush_threshold_ms=60_000, flush_interval_ms=30_000
)


def waiting(entries=1, size_bytes=10, oldest_ms=100_000, last_flush_ms=100_000):
    return Waiting(entries, size_bytes, oldest_ms, last_flush_ms)


@pytest.mark.parametrize(
    ("held", "now_ms", "trigger"),
    [
        (waiting(entries=0), 10**9, None),
        (waiting(entries=9, size_bytes=999), 129_999, None),
        (waiting(entries=10), 100_000, FlushTrigger.ENTRIES),
        (waiting(size_bytes=1000), 100_000, FlushTrigger.BYTES),
        (waiting(), 130_000, FlushTrigger.INTERVAL),
        (waiting(last_flush_ms=0), 129_999, None),
        (waiting(last_flush_ms=0), 130_000, FlushTrigger.INTERVAL),
        (waiting(last_flush_ms=150_000), 160_000, FlushTrigger.AGE),
        (waiting(oldest_ms=3_700_000), 100_000, FlushTrigger.AGE),  # a clock was an hour ahead
    ],
)
def test_thresholds_fire_when_they_are_reached(held, now_ms, trigger):
    assert due(held, CONFIG, now_ms=now_ms) is trigger


@pytest.mark.parametrize("last_flush_ms", [0, 100_000, 120_000, 150_000])
def test_the_timer_is_set_to_the_moment_the_policy_fires(last_flush_ms):
    held = waiting(last_flush_ms=last_flush_ms)
    moment = due_at_ms(held, CONFIG)
    assert due(held, CONFIG, now_ms=moment - 1) is None
    assert due(held, CONFIG, now_ms=moment) in (FlushTrigger.AGE, FlushTrigger.INTERVAL)
