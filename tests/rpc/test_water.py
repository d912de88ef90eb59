import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.water import Water, WaterMark


@pytest.mark.parametrize(
    ("levels", "told"),
    [
        ([0.79, 0.8, 0.9, 1.0], [None, Water.HIGH, None, None]),
        ([0.8, 0.21, 0.2, 0.1], [Water.HIGH, None, Water.LOW, None]),
        ([0.2, 0.1], [None, None]),
        ([0.9, 0.1, 0.9, 0.1], [Water.HIGH, Water.LOW, Water.HIGH, Water.LOW]),
    ],
)
def test_each_crossing_is_told_once(levels, told):
    mark = WaterMark(high=0.8, low=0.2)
    assert [mark.look(level) for level in levels] == told


@given(st.lists(st.floats(0, 1)))
def test_high_and_low_take_turns_beginning_with_high(levels):
    mark = WaterMark(high=0.8, low=0.2)
    told = [water for level in levels if (water := mark.look(level)) is not None]
    assert told == [Water.HIGH, Water.LOW] * (len(told) // 2) + [Water.HIGH] * (len(told) % 2)
    assert mark.is_high == bool(len(told) % 2)
