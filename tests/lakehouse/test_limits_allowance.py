import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.conf import MIB, Settings
from lakehouse.limits.allowance import Allowance, Headroom, payload_bytes_max, suggested_delay_ms
from tests.builders import NOW_MS

SETTINGS = Settings()


def allowance(**own):
    return Allowance(SETTINGS, now_ms=NOW_MS, **own)


def refused(times, now_ms=NOW_MS):
    """An allowance whose last so many messages were refused."""
    found = allowance()
    for _ in range(50 + times):
        found.take(now_ms)
    return found


@pytest.mark.parametrize(
    ("times", "delay_ms"), [(1, 200), (2, 400), (8, 25_600), (9, 30_000), (10, 30_000), (5000, 30_000)]
)
def test_the_delay_doubles_with_every_refusal_in_a_row_up_to_its_limit(times, delay_ms):
    assert refused(times).retry_delay_ms(chance=0.5) == delay_ms


@given(st.integers(1, 20), st.floats(0, 1, exclude_max=True))
def test_the_delay_is_spread_by_half_up_and_down(times, chance):
    grown = min(100 * 2 ** min(times, 10), 30_000)
    assert grown * 0.5 <= refused(times).retry_delay_ms(chance=chance) < grown * 1.5


@pytest.mark.parametrize("accept", [Allowance.take, Allowance.take_heartbeat])
def test_any_accepted_message_makes_the_next_delay_short_again(accept):
    found = refused(7)
    assert accept(found, NOW_MS + 1000)
    assert found.refusals == 0


def test_heartbeats_are_served_when_no_message_is():
    found = refused(1)
    assert sum(found.take_heartbeat(NOW_MS) for _ in range(200)) == 100
    assert sum(found.take_heartbeat(NOW_MS + 1000) for _ in range(200)) == 20


def test_the_ack_says_what_is_left_and_when_the_bucket_is_full():
    found = allowance()
    assert found.headroom(NOW_MS) == Headroom(1000, 50, NOW_MS // 1000)
    for _ in range(50):
        found.take(NOW_MS + 1)
    assert found.headroom(NOW_MS + 1) == Headroom(1000, 0, NOW_MS // 1000 + 1)


def test_never_more_is_left_than_the_limit():
    assert allowance(messages_per_second=10, burst_capacity=50).headroom(NOW_MS).remaining == 10


def test_an_access_key_may_have_a_rate_of_its_own():
    found = allowance(messages_per_second=1, burst_capacity=2)
    assert [found.take(NOW_MS + ms) for ms in (0, 0, 0, 999, 1000)] == [True, True, False, False, True]


def test_the_third_thing_that_is_too_large_ends_the_connection():
    found = allowance()
    assert [found.violate() for _ in range(3)] == [False, False, True]


@given(st.integers(0, 300), st.integers(0, 100), st.integers(0, 2), st.integers(-1000, 1000))
def test_a_socket_that_slept_goes_on_where_it_was(messages, heartbeats, violations, slept_ms):
    awake = allowance()
    for _ in range(messages):
        awake.take(NOW_MS)
    for _ in range(heartbeats):
        awake.take_heartbeat(NOW_MS)
    awake.violations = violations
    woken = allowance()
    woken.unpack(awake.pack(NOW_MS))
    woken_ms = NOW_MS + slept_ms
    assert woken.headroom(woken_ms) == awake.headroom(woken_ms)
    assert woken.heartbeats.remaining(woken_ms) == awake.heartbeats.remaining(woken_ms)
    assert (woken.refusals, woken.violations) == (awake.refusals, violations)


def test_a_sleeping_allowance_is_18_bytes_however_often_it_was_refused():
    assert len(refused(1000).pack(NOW_MS)) == 18


@pytest.mark.parametrize("packed", [b"", b"\x00" * 17, b"\xff" * 19])
def test_bytes_that_are_no_allowance_give_a_fresh_one(packed):
    woken = allowance()
    woken.unpack(packed)
    assert woken.headroom(NOW_MS).remaining == 50


def test_bytes_of_a_richer_past_do_not_make_a_bucket_fuller_than_it_can_be():
    woken = allowance()
    woken.unpack(b"\xff" * 18)
    assert woken.headroom(NOW_MS).remaining == 50


@pytest.mark.parametrize(("own", "most"), [(None, 4), (8, 8), (16, 16), (64, 16), (1, 1)])
def test_a_batch_may_be_as_large_as_the_access_key_says_and_never_larger_than_the_protocol(own, most):
    assert payload_bytes_max(SETTINGS, own and own * MIB) == most * MIB


@pytest.mark.parametrize(("utilization", "delay_ms"), [(0.0, None), (0.8, None), (0.801, 400), (0.9, 450), (1.0, 500)])
def test_a_pause_is_suggested_above_the_backpressure_threshold_only(utilization, delay_ms):
    assert suggested_delay_ms(utilization, SETTINGS) == delay_ms
