"""A circuit breaker at work for a client: which calls it lets through, and what each tells about the parent.

A failure is a parent that cannot be reached, is silent, or cannot flush now. Any other answer is a success, the final
refusal of a batch included. Nothing is proven by a cancelled call, by our own disconnect, by an error of the caller's
entries or of the outbox, nor by a wrong key: that is no outage, and an open circuit would hide what is to be mended.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from rpc.circuit_breaker import (
    Admission,
    CircuitBreaker,
    CircuitBreakerOptions,
    CircuitBreakerStats,
    CircuitState,
    MonotonicTimeProvider,
)
from rpc.errors import AccessDeniedError, ConnectionError, FlushError
from rpc.outcome import ClientStats

__all__ = ["DEFAULT_RPC_CIRCUIT_BREAKER_OPTIONS", "CircuitBreakerRpcConfig", "CircuitBreakerRpcStats"]

log = logging.getLogger(__name__)

DEFAULT_RPC_CIRCUIT_BREAKER_OPTIONS = CircuitBreakerOptions(failure_threshold=5, max_backoff_ms=30_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreakerRpcConfig:
    circuit_breaker: CircuitBreakerOptions = DEFAULT_RPC_CIRCUIT_BREAKER_OPTIONS
    enabled: bool = True
    """Without it no call is refused and none is judged; time limits hold all the same."""
    call_timeout_ms: int = 30_000
    """A call that finds no connection within this gives up; nothing of it is kept."""
    flush_timeout_ms: int = 150_000
    """`request_flush` gives up after this. The parent gives up after 120 000 ms, and says why."""
    on_state_change: Callable[[CircuitState, CircuitState], Any] | None = None
    """Hears the old and the new state when a call finds it changed; a plain function. Its errors are logged."""

    def __post_init__(self) -> None:
        for name in ("call_timeout_ms", "flush_timeout_ms"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, wanted a whole number of at least 1")
        if inspect.iscoroutinefunction(self.on_state_change):
            raise ValueError("on_state_change is a coroutine function, wanted a plain one: nobody would await it")


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreakerRpcStats(CircuitBreakerStats):
    """The circuit's stats, and in `client` those of the client behind it."""

    child_id: str
    client: ClientStats


class Verdict(Enum):
    """What a call tells about the parent."""

    WELL = auto()
    AWAY = auto()
    NOTHING = auto()


def told_by(error: Exception) -> Verdict:
    is_away = isinstance(error, (ConnectionError, FlushError)) and not isinstance(error, AccessDeniedError)
    return Verdict.AWAY if is_away else Verdict.NOTHING


@dataclass(slots=True)
class Call:
    """A call on its way through the circuit; whoever makes it may know better than its outcome what it tells."""

    admission: Admission | None
    verdict: Verdict | None = None


class Circuit:
    """For one client, which is named `child_id` in the log."""

    def __init__(
        self, config: CircuitBreakerRpcConfig, *, child_id: str, time_provider: MonotonicTimeProvider | None
    ) -> None:
        self.config = config
        self.breaker = CircuitBreaker(config.circuit_breaker, time_provider=time_provider)
        self._child_id = child_id
        self._announced = CircuitState.CLOSED

    @property
    def is_open(self) -> bool:
        return self.config.enabled and self.breaker.state is CircuitState.OPEN

    @contextlib.contextmanager
    def call(self) -> Iterator[Call]:
        """Raise CircuitBreakerError, or let a call through and judge it."""
        call = Call(self.breaker.admit() if self.config.enabled else None)
        self.announce()
        verdict = Verdict.NOTHING
        try:
            yield call
            verdict = Verdict.WELL
        except Exception as exc:
            verdict = told_by(exc)
            raise
        finally:
            self._judge(call.admission, call.verdict or verdict)

    def announce(self) -> None:
        """Tell if the circuit changed since this was last told."""
        old, new = self._announced, self.breaker.state
        if new is old:
            return
        self._announced = new
        level = logging.WARNING if new is CircuitState.OPEN else logging.INFO
        log.log(level, "child %r: the circuit was %s and is %s", self._child_id, old, new)
        if self.config.on_state_change is not None:
            try:
                self.config.on_state_change(old, new)
            except Exception:
                log.exception("on_state_change of the circuit failed")

    def _judge(self, admission: Admission | None, verdict: Verdict) -> None:
        if admission is None:
            return
        if verdict is Verdict.WELL:
            self.breaker.succeeded(admission)
        elif verdict is Verdict.AWAY:
            self.breaker.failed(admission)
        else:
            self.breaker.abandoned(admission)
        self.announce()
