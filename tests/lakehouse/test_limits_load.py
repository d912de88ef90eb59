import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.conf import Settings
from lakehouse.limits.lag import Lag
from lakehouse.limits.load import LoadLevel, level, shed_delay_ms

SETTINGS = Settings()


def load(*, utilization=0.0, intake=0.0, lag=0.0):
    """The level with gauges so full."""
    intake_bytes = int(intake * SETTINGS.intake_bytes_max)
    return level(utilization, SETTINGS, intake_bytes=intake_bytes, lag_ms=lag * 1000)


@pytest.mark.parametrize("gauge", ["utilization", "intake", "lag"])
@pytest.mark.parametrize(
    ("full", "wanted"),
    [(0.0, "normal"), (0.49, "normal"), (0.5, "elevated"), (0.81, "high"), (0.949, "high"), (0.96, "critical")],
)
def test_any_gauge_alone_raises_the_level(gauge, full, wanted):
    assert load(**{gauge: full}) == wanted


def test_gauges_above_full_are_critical_and_nothing_worse():
    assert load(utilization=3.0, intake=2.0, lag=60.0) is LoadLevel.CRITICAL


@pytest.mark.parametrize("level", LoadLevel)
def test_only_a_critical_load_sends_batches_away(level):
    assert (shed_delay_ms(level, high_priority=False, chance=0.0) is not None) == (level is LoadLevel.CRITICAL)


@pytest.mark.parametrize("level", LoadLevel)
def test_a_batch_of_high_priority_is_never_sent_away(level):
    assert shed_delay_ms(level, high_priority=True, chance=0.0) is None


@given(st.floats(0, 1, exclude_max=True))
def test_who_is_sent_away_comes_back_within_50_to_149_ms(chance):
    assert 50 <= shed_delay_ms(LoadLevel.CRITICAL, high_priority=False, chance=chance) <= 149


def test_high_and_critical_are_degraded():
    assert [level.is_degraded for level in LoadLevel] == [False, False, True, True]


async def test_a_loop_that_is_busy_is_late_and_an_idle_one_is_not():
    lag = Lag(asyncio.get_running_loop())
    lag.probe()
    lag.probe()
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < 0.02:  # somebody keeps the loop for himself
        pass
    await asyncio.sleep(0)
    assert lag.ms >= 20
    lag._noted_s -= 1
    assert lag.ms == 0
