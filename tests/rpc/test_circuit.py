import asyncio
import contextlib
import logging

import pytest

from rpc.circuit import DEFAULT_RPC_CIRCUIT_BREAKER_OPTIONS, Circuit, CircuitBreakerRpcConfig, Verdict
from rpc.circuit_breaker import CircuitBreakerError, CircuitBreakerOptions, CircuitState
from rpc.errors import AccessDeniedError, BufferOverflowError, ConnectionError, FlushError, ProtocolError

QUICK = CircuitBreakerOptions(failure_threshold=2)


class Clock:
    ms = 0.0

    def now(self):
        return self.ms


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def circuit(clock):
    return Circuit(CircuitBreakerRpcConfig(circuit_breaker=QUICK), child_id="shop-1", time_provider=clock)


def end(circuit, error):
    with pytest.raises(type(error)), circuit.call():
        raise error


def counted(circuit):
    stats = circuit.breaker.get_stats()
    return stats.total_failures, stats.total_successes


def test_the_defaults_are_those_of_the_contract():
    options = CircuitBreakerRpcConfig().circuit_breaker
    assert options is DEFAULT_RPC_CIRCUIT_BREAKER_OPTIONS
    assert (options.failure_threshold, options.max_backoff_ms) == (5, 30_000)


@pytest.mark.parametrize("error", [ConnectionError("away"), FlushError("no worker")])
def test_a_parent_that_is_away_or_cannot_flush_is_a_failure(circuit, error):
    end(circuit, error)
    assert counted(circuit) == (1, 0)
    end(circuit, error)
    assert circuit.is_open


@pytest.mark.parametrize(
    "error",
    [
        AccessDeniedError("wrong key"),
        ProtocolError("no such operation"),
        BufferOverflowError(),
        asyncio.CancelledError(),
        ZeroDivisionError(),
    ],
    ids=repr,
)
def test_what_says_nothing_about_the_parent_is_not_counted_and_frees_the_place_of_the_probe(circuit, clock, error):
    end(circuit, ConnectionError())
    end(circuit, error)
    assert circuit.breaker.get_stats().failures == 1
    end(circuit, ConnectionError())
    clock.ms += 1000
    end(circuit, error)
    assert counted(circuit) == (2, 0)
    with circuit.call():
        pass
    assert circuit.breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize(("verdict", "wanted"), [(Verdict.WELL, (0, 1)), (Verdict.AWAY, (1, 0)), (None, (1, 0))])
def test_a_call_may_know_better_than_its_error(circuit, verdict, wanted):
    with contextlib.suppress(ConnectionError), circuit.call() as call:
        call.verdict = verdict
        raise ConnectionError("slow")
    assert counted(circuit) == wanted


def test_a_call_that_returns_may_be_a_failure_all_the_same(circuit):
    with circuit.call() as call:
        call.verdict = Verdict.AWAY
    assert counted(circuit) == (1, 0)


def test_every_change_is_told_once_in_order(clock, caplog):
    heard = []
    config = CircuitBreakerRpcConfig(circuit_breaker=QUICK, on_state_change=lambda old, new: heard.append((old, new)))
    circuit = Circuit(config, child_id="shop-1", time_provider=clock)
    for wait_ms in (0, 0, 1000):
        clock.ms += wait_ms
        end(circuit, ConnectionError())
    with pytest.raises(CircuitBreakerError), circuit.call():
        pass
    clock.ms += 2000
    with circuit.call():
        pass
    closed, opened, half = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
    assert heard == [(closed, opened), (opened, half), (half, opened), (opened, half), (half, closed)]
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"child 'shop-1': the circuit was {old} and is open" for old in (closed, half)]


def test_a_callback_that_fails_is_logged_and_ends_nothing(clock, caplog):
    config = CircuitBreakerRpcConfig(circuit_breaker=QUICK, on_state_change=lambda old, new: 1 // 0)
    circuit = Circuit(config, child_id="shop-1", time_provider=clock)
    end(circuit, ConnectionError())
    end(circuit, ConnectionError())
    assert circuit.is_open
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (record.message, record.exc_info[0]) == ("on_state_change of the circuit failed", ZeroDivisionError)


def test_a_circuit_that_is_switched_off_refuses_and_counts_nothing(clock):
    config = CircuitBreakerRpcConfig(circuit_breaker=QUICK, enabled=False)
    circuit = Circuit(config, child_id="shop-1", time_provider=clock)
    for _ in range(3):
        end(circuit, ConnectionError())
    assert (circuit.is_open, counted(circuit)) == (False, (0, 0))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"call_timeout_ms": 0}, "call_timeout_ms is 0, wanted a whole number of at least 1"),
        ({"flush_timeout_ms": 1.5}, "flush_timeout_ms is 1.5, wanted"),
        ({"call_timeout_ms": True}, "call_timeout_ms is True, wanted"),
        ({"on_state_change": asyncio.sleep}, "is a coroutine function, wanted a plain one"),
    ],
)
def test_options_that_cannot_work_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        CircuitBreakerRpcConfig(**options)
