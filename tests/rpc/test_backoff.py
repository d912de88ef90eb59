from rpc.backoff import delay_ms


def wait(attempt, chance=1.0):
    return delay_ms(attempt, initial_ms=100, max_ms=10_000, multiplier=2, chance=chance)


def test_delays_double_up_to_the_limit():
    assert [wait(attempt) for attempt in (1, 2, 3, 8, 1000)] == [100, 200, 400, 10_000, 10_000]


def test_chance_spreads_over_the_upper_half():
    assert wait(1, chance=0.0) == 50
