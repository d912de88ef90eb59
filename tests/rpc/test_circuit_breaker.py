import asyncio

import pytest

from rpc.circuit_breaker import CircuitBreaker, CircuitBreakerError, CircuitBreakerOptions, CircuitState


class Clock:
    ms = 0.0

    def now(self):
        return self.ms


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(CircuitBreakerOptions(failure_threshold=3, max_backoff_ms=4000), time_provider=clock)


def fail(breaker, times=1):
    for _ in range(times):
        with pytest.raises(ZeroDivisionError):
            breaker.call(lambda: 1 // 0)


def test_it_opens_at_the_threshold_and_not_before(breaker):
    fail(breaker, 2)
    assert breaker.state is CircuitState.CLOSED
    fail(breaker)
    assert breaker.state is CircuitState.OPEN
    with pytest.raises(CircuitBreakerError, match="try again in 1000 ms") as caught:
        breaker.call(lambda: 1)
    assert (caught.value.retry_after_ms, caught.value.retryable) == (1000, True)


def test_a_success_in_between_starts_the_count_anew(breaker):
    fail(breaker, 2)
    assert breaker.call(lambda: 7) == 7
    fail(breaker, 2)
    assert breaker.state is CircuitState.CLOSED


def test_after_the_wait_exactly_one_probe_passes(breaker, clock):
    fail(breaker, 3)
    clock.ms += 999
    assert breaker.state is CircuitState.OPEN
    clock.ms += 1
    assert breaker.state is CircuitState.HALF_OPEN
    probe = breaker.admit()
    with pytest.raises(CircuitBreakerError, match="its probe is under way; try again in 1000 ms"):
        breaker.admit()
    breaker.succeeded(probe)
    assert breaker.state is CircuitState.CLOSED


def test_a_failed_probe_waits_twice_as_long_up_to_the_limit(breaker, clock):
    fail(breaker, 3)
    for wait_ms in (1000, 2000, 4000, 4000):
        clock.ms += wait_ms - 1
        assert breaker.state is CircuitState.OPEN
        clock.ms += 1
        fail(breaker)


def test_an_interrupted_probe_is_no_failure_and_makes_room_for_the_next_one(breaker, clock):
    fail(breaker, 3)
    clock.ms += 1000
    with pytest.raises(KeyboardInterrupt):
        breaker.call(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert breaker.get_stats().failures == 3
    assert breaker.call(lambda: 1) == 1
    assert breaker.state is CircuitState.CLOSED


async def test_a_cancelled_probe_is_no_failure_and_makes_room_for_the_next_one(breaker, clock):
    fail(breaker, 3)
    clock.ms += 1000
    probe = asyncio.create_task(breaker.call_async(asyncio.Event().wait))
    await asyncio.sleep(0)
    with pytest.raises(CircuitBreakerError, match="its probe is under way"):
        breaker.admit()
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert (breaker.state, breaker.get_stats().failures) == (CircuitState.HALF_OPEN, 3)
    assert breaker.call(lambda: 1) == 1


def test_calls_that_were_under_way_when_it_opened_do_not_keep_it_open_longer(breaker, clock):
    under_way = [breaker.admit() for _ in range(10)]
    for admission in under_way:
        breaker.failed(admission)
    stats = breaker.get_stats()
    assert (stats.failures, stats.total_failures) == (3, 10)
    clock.ms += 1000
    assert breaker.state is CircuitState.HALF_OPEN


@pytest.mark.parametrize("late", ["succeeded", "failed", "abandoned"])
def test_an_old_call_that_ends_late_lets_no_second_probe_through(breaker, clock, late):
    old = breaker.admit()
    fail(breaker, 3)
    clock.ms += 1000
    probe = breaker.admit()
    getattr(breaker, late)(old)
    with pytest.raises(CircuitBreakerError):
        breaker.admit()
    breaker.failed(probe)
    assert (breaker.state, breaker.get_stats().failures) == (CircuitState.OPEN, 4)


def test_a_circuit_may_be_opened_and_closed_by_hand(breaker, clock):
    under_way = breaker.admit()
    breaker.trip()
    with pytest.raises(CircuitBreakerError, match="try again in 1000 ms"):
        breaker.admit()
    breaker.reset()
    breaker.failed(under_way)
    assert (breaker.state, breaker.get_stats().failures) == (CircuitState.CLOSED, 0)


def test_a_probe_of_before_a_reset_does_not_count_after_it(breaker, clock):
    breaker.trip()
    clock.ms += 1000
    probe = breaker.admit()
    breaker.reset()
    breaker.failed(probe)
    assert (breaker.state, breaker.get_stats().failures) == (CircuitState.CLOSED, 0)


def test_the_time_to_come_back_is_never_too_early(breaker, clock):
    fail(breaker, 3)
    clock.ms += 0.4
    with pytest.raises(CircuitBreakerError) as caught:
        breaker.admit()
    clock.ms += caught.value.retry_after_ms
    assert breaker.state is CircuitState.HALF_OPEN


async def test_it_guards_coroutines_as_well(breaker):
    async def work():
        return 5

    assert await breaker.call_async(work) == 5
    stats = breaker.get_stats()
    assert (stats.total_successes, stats.total_failures, stats.rejected) == (1, 0, 0)


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="failure_threshold is 0"):
        CircuitBreakerOptions(failure_threshold=0)
