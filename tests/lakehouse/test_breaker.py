"""The breaker around the object store: its decisions, and the row all processes agree on."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import pytest
from django.db import connection

from lakehouse.errors import CommitConflict, StoreUnavailable
from lakehouse.flush import breaker, breaker_row
from lakehouse.flush.breaker import BreakerState, Patience, Seen, Way
from lakehouse.flush.breaker_row import Word
from lakehouse.models import StoreBreaker
from tests.builders import NOW_MS

PATIENCE = Patience(failures_max=3, open_ms=30_000, probe_ms=60_000)
HOUR_MS = 3_600_000
in_database = pytest.mark.django_db(transaction=True)


def failing(times, *, now_ms=NOW_MS, seen=None):
    seen = seen or Seen()
    for _ in range(times):
        seen = breaker.failed(seen, PATIENCE, now_ms=now_ms)
    return seen


def test_it_opens_with_the_third_failure_in_a_row_and_not_before():
    assert failing(2) == Seen(failures=2)
    assert failing(3) == Seen(state=BreakerState.OPEN, failures=3, open_until_ms=NOW_MS + 30_000)


def test_open_nobody_asks_until_its_time_is_over_and_then_one_is_the_probe():
    seen = failing(3)
    assert breaker.way(Seen(), now_ms=NOW_MS) is Way.LAKE
    assert breaker.way(seen, now_ms=NOW_MS + 29_999) is Way.FALLBACK
    assert breaker.way(seen, now_ms=NOW_MS + 30_000) is Way.PROBE
    probing = breaker.probing(seen, PATIENCE, now_ms=NOW_MS + 30_000)
    assert probing.state is BreakerState.HALF_OPEN
    assert breaker.way(probing, now_ms=NOW_MS + 89_999) is Way.FALLBACK
    assert breaker.way(probing, now_ms=NOW_MS + 90_000) is Way.PROBE


def test_one_failure_of_the_probe_opens_it_again_and_one_success_closes_it():
    probing = breaker.probing(failing(3), PATIENCE, now_ms=NOW_MS)
    again = breaker.failed(probing, PATIENCE, now_ms=NOW_MS + 7)
    assert (again.state, again.open_until_ms) == (BreakerState.OPEN, NOW_MS + 30_007)
    assert breaker.succeeded() == Seen()


def test_a_probe_that_learned_nothing_leaves_the_probe_to_the_next():
    probing = breaker.probing(failing(3), PATIENCE, now_ms=NOW_MS)
    assert breaker.way(breaker.released(probing, now_ms=NOW_MS + 1), now_ms=NOW_MS + 1) is Way.PROBE


# The row.


def enter(clock, owner="worker-1"):
    return breaker_row.enter(PATIENCE, owner=owner, now_ms=clock())


def ask(clock, error=None, passage=None):
    """A flush that asks the store; the passage it had."""
    passage = passage or enter(clock)
    expected = nullcontext() if error is None else pytest.raises(type(error))
    with expected, breaker_row.watched(passage, PATIENCE, now_ms=clock):
        if error is not None:
            raise error
    return passage


AWAY = StoreUnavailable("the warehouse cannot be read")


def state():
    return breaker_row.read().state


@in_database
def test_three_flushes_that_find_the_store_away_open_it_for_everybody(clock):
    for _ in range(2):
        assert ask(clock, AWAY).way is Way.LAKE
    assert (state(), enter(clock, "worker-2").way) == ("closed", Way.LAKE)
    ask(clock, AWAY)
    row = StoreBreaker.objects.get()
    assert (row.state, row.failures, row.opened_total, row.last_error) == ("open", 3, 1, str(AWAY))
    assert enter(clock, "worker-2").way is Way.FALLBACK


@in_database
def test_a_flush_that_gets_through_ends_the_row_of_failures(clock):
    for error in (AWAY, AWAY, None, AWAY, AWAY):
        ask(clock, error)
    assert (state(), breaker_row.read().failures) == ("closed", 2)


@in_database
def test_what_began_before_a_failure_does_not_end_it_and_the_next_flush_does(clock):
    earlier = enter(clock)
    ask(clock, AWAY)
    ask(clock, passage=earlier)
    assert breaker_row.read().failures == 1
    ask(clock)
    assert breaker_row.read().failures == 0


@in_database
@pytest.mark.parametrize("error", [CommitConflict("moved"), KeyError("x")], ids=["conflict", "mistake"])
def test_an_error_that_is_not_the_stores_opens_nothing(error, clock):
    for _ in range(5):
        ask(clock, error)
    assert state() == "closed"


@in_database
def test_failures_of_two_flushes_at_the_same_moment_count_as_two(clock):
    passages = [enter(clock), enter(clock)]
    for passage in passages:
        ask(clock, AWAY, passage)
    assert breaker_row.read().failures == 2


def opened(clock):
    for _ in range(3):
        ask(clock, AWAY)
    clock.ms += PATIENCE.open_ms


@in_database
def test_of_many_workers_exactly_one_is_the_probe(clock):
    opened(clock)

    def come(number):
        try:
            return enter(clock, f"worker-{number}").way
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        ways = list(pool.map(come, range(8)))
    assert sorted(ways) == sorted([Way.PROBE] + [Way.FALLBACK] * 7)
    assert state() == "half_open"


@in_database
def test_a_probe_that_gets_through_closes_it(clock):
    opened(clock)
    assert ask(clock).way is Way.PROBE
    assert (state(), enter(clock).way) == ("closed", Way.LAKE)


@in_database
def test_a_probe_that_fails_opens_it_again_and_the_outage_is_still_one(clock):
    opened(clock)
    ask(clock, AWAY)
    row = breaker_row.read()
    assert (row.state, row.opened_total) == ("open", 1)
    assert enter(clock).way is Way.FALLBACK


@in_database
def test_a_probe_that_ends_with_another_error_leaves_it_to_the_next_flush(clock):
    opened(clock)
    ask(clock, KeyError("x"))
    assert enter(clock, "worker-2").way is Way.PROBE


@in_database
def test_a_probe_that_dies_is_followed_by_another_and_its_late_word_counts_for_nothing(clock):
    opened(clock)
    dead = enter(clock)
    clock.ms += PATIENCE.probe_ms
    living = enter(clock, "worker-2")
    assert living.way is Way.PROBE
    ask(clock, AWAY, dead)
    assert state() == "half_open"
    ask(clock, None, dead)
    assert state() == "half_open"
    ask(clock, None, living)
    assert state() == "closed"


@in_database
def test_a_probe_that_takes_long_stays_the_only_one(clock):
    opened(clock)
    patience = replace(PATIENCE, probe_ms=30)
    passage = breaker_row.enter(patience, owner="worker-1", now_ms=clock())
    with breaker_row.watched(passage, patience, now_ms=clock):
        first_ms = breaker_row.read().probe_until_ms
        clock.ms += 25
        while breaker_row.read().probe_until_ms == first_ms:
            time.sleep(0.005)
        clock.ms += 25
        assert breaker_row.enter(patience, owner="worker-2", now_ms=clock()).way is Way.FALLBACK
    assert state() == "closed"


@in_database
def test_a_flush_that_began_before_it_opened_neither_closes_nor_delays_it(clock):
    early, late = enter(clock), enter(clock)
    opened(clock)
    before = breaker_row.read().turn
    ask(clock, None, early)
    ask(clock, AWAY, late)
    assert (state(), breaker_row.read().turn) == ("open", before)


@in_database
def test_who_does_not_want_to_wait_is_the_probe_now(clock):
    assert not breaker_row.hurry(now_ms=clock())
    opened(clock)
    clock.ms -= 1000
    assert not breaker_row.is_asked(now_ms=clock())
    assert breaker_row.hurry(now_ms=clock())
    assert enter(clock).way is Way.PROBE


@in_database
@pytest.mark.parametrize("state", ["open", "half_open"])
def test_what_a_clock_an_hour_ahead_wrote_is_probed_now(clock, state):
    opened(clock)
    clock.ms += HOUR_MS
    if state == "open":
        ask(clock, AWAY)
    else:
        assert enter(clock, "dead").way is Way.PROBE
    clock.ms -= HOUR_MS
    assert breaker_row.read().state == state
    assert breaker_row.is_asked(now_ms=clock())
    assert ask(clock).way is Way.PROBE
    assert breaker_row.read().state == "closed"


@in_database
def test_an_outage_on_purpose_ends_by_itself(clock):
    StoreBreaker.objects.create(pk=1, outage_until_ms=NOW_MS + 100)
    with (
        pytest.raises(StoreUnavailable, match="a drill keeps the store away"),
        breaker_row.watched(enter(clock), PATIENCE, now_ms=clock),
    ):
        raise AssertionError("the store was asked")
    clock.ms += 100
    assert ask(clock).outage_until_ms == 0
    assert state() == "closed"


@in_database
def test_a_process_knows_of_it_within_a_second_and_asks_no_more_often(clock, django_assert_num_queries):
    word = Word()
    word.refresh(clock())
    for _ in range(3):
        ask(clock, AWAY)
    with django_assert_num_queries(0):
        word.refresh(clock() + 999)
    assert not word.is_away
    with django_assert_num_queries(1):
        word.refresh(clock() + 1000)
    assert word.state is BreakerState.OPEN
