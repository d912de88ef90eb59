from hypothesis import given
from hypothesis import strategies as st

from lakehouse.journal.watermark import ISLANDS_MAX, Watermark


def test_sequences_in_order_are_one_number():
    watermark = Watermark()
    for sequence in (1, 2, 3):
        watermark.add(sequence)
    assert (watermark.sequence, watermark.islands) == (3, [])


def test_a_gap_is_remembered_until_it_is_filled():
    watermark = Watermark()
    for sequence in (1, 3, 4, 6):
        watermark.add(sequence)
    assert (watermark.sequence, watermark.islands) == (1, [[3, 4], [6, 6]])
    watermark.add(2)
    assert (watermark.sequence, watermark.islands) == (4, [[6, 6]])


def test_beyond_the_bound_the_highest_islands_are_forgotten_and_never_the_prefix():
    watermark = Watermark()
    for sequence in range(2, 2 * ISLANDS_MAX + 10, 2):
        watermark.add(sequence)
    assert len(watermark.islands) == ISLANDS_MAX
    assert watermark.sequence == 0
    assert watermark.islands[0] == [2, 2]


@given(st.lists(st.integers(1, 60)))
def test_it_contains_what_was_added_and_nothing_else(sequences):
    watermark = Watermark()
    for sequence in sequences:
        watermark.add(sequence)
    assert {sequence for sequence in range(1, 62) if sequence in watermark} == set(sequences)
