from hypothesis import given
from hypothesis import strategies as st

from lakehouse.limits.bucket import TokenBucket
from tests.builders import NOW_MS

steps = st.lists(st.tuples(st.integers(-5_000, 5_000), st.integers(0, 80)), max_size=40)


def bucket(per_second=1000, capacity=50):
    return TokenBucket(per_second, capacity, now_ms=NOW_MS)


def taken(tokens, now_ms, wanted):
    return sum(tokens.take(now_ms) for _ in range(wanted))


@given(st.integers(1, 5_000), st.integers(1, 200), steps)
def test_never_more_than_the_burst_and_what_was_earned_whatever_the_clock_does(per_second, capacity, steps):
    tokens, now_ms, accepted, forward_ms = bucket(per_second, capacity), NOW_MS, 0, 0
    for step_ms, wanted in steps:
        now_ms += step_ms
        forward_ms += max(0, step_ms)
        accepted += taken(tokens, now_ms, wanted)
        assert accepted <= capacity + per_second * forward_ms / 1000


@given(st.integers(1, 5_000), st.integers(1, 200), steps)
def test_a_clock_that_went_back_takes_no_token_away(per_second, capacity, steps):
    tokens, now_ms = bucket(per_second, capacity), NOW_MS
    for step_ms, wanted in steps:
        before = tokens.remaining(now_ms)
        now_ms += step_ms
        assert tokens.remaining(now_ms) >= before
        taken(tokens, now_ms, wanted)


@given(st.integers(1, 5_000), st.integers(1, 200), st.integers(0, 300))
def test_after_the_wait_it_names_a_token_is_there_and_not_before(per_second, capacity, wanted):
    tokens = bucket(per_second, capacity)
    taken(tokens, NOW_MS, wanted)
    wait_ms = tokens.wait_ms(NOW_MS, tokens=1)
    if wait_ms:
        assert not tokens.take(NOW_MS + wait_ms - 1)
    assert tokens.take(NOW_MS + wait_ms)


def test_a_burst_is_served_at_once_and_then_one_per_millisecond():
    tokens = bucket()
    assert taken(tokens, NOW_MS, 100) == 50
    assert [taken(tokens, NOW_MS + ms, 100) for ms in (1, 2, 2, 12)] == [1, 1, 0, 10]


def test_a_bucket_that_was_left_alone_is_full_and_no_fuller():
    tokens = bucket()
    taken(tokens, NOW_MS, 50)
    assert taken(tokens, NOW_MS + 3_600_000, 100) == 50


def test_an_hour_back_and_the_bucket_goes_on_at_once():
    tokens = bucket()
    taken(tokens, NOW_MS, 50)
    back_ms = NOW_MS - 3_600_000
    assert not tokens.take(back_ms)
    assert tokens.take(back_ms + 1)


def test_it_says_when_it_is_full_again():
    tokens = bucket()
    taken(tokens, NOW_MS, 20)
    assert (tokens.wait_ms(NOW_MS), tokens.wait_ms(NOW_MS + 20)) == (20, 0)
