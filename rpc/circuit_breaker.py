"""A circuit breaker: after enough failures in a row it says no for a while, then lets one probe through.

Closed: everything passes. Open: nothing does, for min(1000 * 2^(failures - threshold), max_backoff_ms) counted from the
last failure. Then half open: exactly one call passes; its success closes the circuit, its failure opens it again for
longer. Time comes from a provider, so that nothing here waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol, TypeVar

from rpc.errors import LakehouseRpcError

__all__ = [
    "CircuitBreaker",
    "CircuitBreakerError",
    "CircuitBreakerOptions",
    "CircuitBreakerStats",
    "CircuitState",
    "MonotonicTimeProvider",
]

FIRST_BACKOFF_MS = 1000
T = TypeVar("T")


class CircuitState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreakerError(LakehouseRpcError):
    """The circuit is open; the other side failed too often to be asked now."""

    code: ClassVar[str] = "CIRCUIT_OPEN"
    retryable: ClassVar[bool] = True

    def __init__(self, message: str = "", *, retry_after_ms: int = 0) -> None:
        super().__init__(message, details={"retry_after_ms": retry_after_ms})
        self.retry_after_ms = retry_after_ms


class MonotonicTimeProvider(Protocol):
    """A clock in ms that never goes back."""

    def now(self) -> float: ...


class SystemTime:
    def now(self) -> float:
        return time.monotonic() * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreakerOptions:
    failure_threshold: int = 5
    """Failures in a row that open the circuit."""
    max_backoff_ms: int = 30_000

    def __post_init__(self) -> None:
        if self.failure_threshold < 1 or self.max_backoff_ms < 1:
            raise ValueError(
                f"failure_threshold is {self.failure_threshold}, max_backoff_ms {self.max_backoff_ms}; "
                "wanted at least 1 of each"
            )


@dataclass(frozen=True, slots=True)
class CircuitBreakerStats:
    state: CircuitState
    failures: int
    """In a row, up to now."""
    total_failures: int
    total_successes: int
    rejected: int
    """Calls that were not let through."""


class CircuitBreaker:
    """Thread safe. Use `call` or `call_async`, or `admit` with `succeeded` and `failed` around a call of your own."""

    def __init__(
        self, options: CircuitBreakerOptions | None = None, *, time_provider: MonotonicTimeProvider | None = None
    ) -> None:
        self.options = options or CircuitBreakerOptions()
        self._time = time_provider or SystemTime()
        self._lock = threading.Lock()
        self._failures = self._total_failures = self._total_successes = self._rejected = 0
        self._failed_ms = 0.0
        self._is_probing = False

    @property
    def state(self) -> CircuitState:
        with self._lock:
            return self._state()

    def admit(self) -> None:
        """Let a call through, or raise CircuitBreakerError with the time to come back."""
        with self._lock:
            state = self._state()
            if state is CircuitState.OPEN or (state is CircuitState.HALF_OPEN and self._is_probing):
                self._rejected += 1
                wait_ms = max(0, round(self._failed_ms + self._backoff_ms() - self._time.now()))
                raise CircuitBreakerError(
                    f"the circuit is {state} after {self._failures} failures in a row; try again in {wait_ms} ms",
                    retry_after_ms=wait_ms,
                )
            self._is_probing = state is CircuitState.HALF_OPEN

    def succeeded(self) -> None:
        with self._lock:
            self._failures, self._is_probing = 0, False
            self._total_successes += 1

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._total_failures += 1
            self._failed_ms, self._is_probing = self._time.now(), False

    def call(self, work: Callable[[], T]) -> T:
        self.admit()
        try:
            result = work()
        except BaseException:
            self.failed()
            raise
        self.succeeded()
        return result

    async def call_async(self, work: Callable[[], Awaitable[T]]) -> T:
        self.admit()
        try:
            result = await work()
        except BaseException:
            self.failed()
            raise
        self.succeeded()
        return result

    def reset(self) -> None:
        """Close the circuit by hand."""
        with self._lock:
            self._failures, self._is_probing = 0, False

    def get_stats(self) -> CircuitBreakerStats:
        with self._lock:
            return CircuitBreakerStats(
                self._state(), self._failures, self._total_failures, self._total_successes, self._rejected
            )

    def _state(self) -> CircuitState:
        if self._failures < self.options.failure_threshold:
            return CircuitState.CLOSED
        if self._time.now() - self._failed_ms < self._backoff_ms():
            return CircuitState.OPEN
        return CircuitState.HALF_OPEN

    def _backoff_ms(self) -> float:
        doublings = min(max(0, self._failures - self.options.failure_threshold), 32)
        return min(FIRST_BACKOFF_MS * 2.0**doublings, self.options.max_backoff_ms)
