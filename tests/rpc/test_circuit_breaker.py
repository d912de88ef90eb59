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
    breaker.admit()
    with pytest.raises(CircuitBreakerError):
        breaker.admit()
    breaker.succeeded()
    assert breaker.state is CircuitState.CLOSED


def test_a_failed_probe_waits_twice_as_long_up_to_the_limit(breaker, clock):
    fail(breaker, 3)
    for wait_ms in (1000, 2000, 4000, 4000):
        clock.ms += wait_ms - 1
        assert breaker.state is CircuitState.OPEN
        clock.ms += 1
        fail(breaker)


def test_a_cancelled_probe_does_not_block_the_next_one(breaker, clock):
    fail(breaker, 3)
    clock.ms += 1000
    with pytest.raises(KeyboardInterrupt):
        breaker.call(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    clock.ms += 2000
    assert breaker.call(lambda: 1) == 1


async def test_it_guards_coroutines_as_well(breaker):
    async def work():
        return 5

    assert await breaker.call_async(work) == 5
    stats = breaker.get_stats()
    assert (stats.total_successes, stats.total_failures, stats.rejected) == (1, 0, 0)


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="failure_threshold is 0"):
        CircuitBreakerOptions(failure_threshold=0)
