"""A circuit breaker: after enough failures in a row it says no for a while, then lets one probe through.

Closed: everything passes. Open: nothing does, for min(1000 * 2^(failures - threshold), max_backoff_ms) counted from the
last failure. Then half open: exactly one call passes; its success closes the circuit, its failure opens it again for
longer. A call that was cancelled proves nothing, and neither does the outcome of a call that was let through before the
circuit last opened. Time comes from a provider, so that nothing here waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, NewType, Protocol, TypeVar

from rpc.errors import LakehouseRpcError

__all__ = [
    "Admission",
    "CircuitBreaker",
    "CircuitBreakerError",
    "CircuitBreakerOptions",
    "CircuitBreakerStats",
    "CircuitState",
    "MonotonicTimeProvider",
]

FIRST_BACKOFF_MS = 1000
T = TypeVar("T")

Admission = NewType("Admission", int)
"""A call that was let through, to be handed back with what became of it."""


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
    """Thread safe. Use `call` or `call_async`; or `admit`, and then `succeeded`, `failed` or `abandoned`."""

    def __init__(
        self, options: CircuitBreakerOptions | None = None, *, time_provider: MonotonicTimeProvider | None = None
    ) -> None:
        self.options = options or CircuitBreakerOptions()
        self._time = time_provider or SystemTime()
        self._lock = threading.Lock()
        self._failures = self._total_failures = self._total_successes = self._rejected = 0
        self._failed_ms = 0.0
        self._is_probing = False
        self._changes = 0
        """How often the circuit opened or was reset; what was let through before that is only counted."""

    @property
    def state(self) -> CircuitState:
        with self._lock:
            return self._state()

    def admit(self) -> Admission:
        """Let a call through, or raise CircuitBreakerError with the time to come back."""
        with self._lock:
            state = self._state()
            if state is CircuitState.OPEN or self._is_probing:
                self._rejected += 1
                raise self._refusal()
            self._is_probing = state is CircuitState.HALF_OPEN
            return Admission(self._changes)

    def succeeded(self, admission: Admission) -> None:
        with self._lock:
            self._total_successes += 1
            if admission == self._changes:
                self._failures, self._is_probing = 0, False

    def failed(self, admission: Admission) -> None:
        with self._lock:
            self._total_failures += 1
            if admission == self._changes:
                self._failures += 1
                if self._failures >= self.options.failure_threshold:
                    self._open()

    def abandoned(self, admission: Admission) -> None:
        """The call ended and says nothing about the other side; the next one may be the probe."""
        with self._lock:
            if admission == self._changes:
                self._is_probing = False

    def call(self, work: Callable[[], T]) -> T:
        """Every Exception of `work` is a failure; a cancellation or an interrupt is not."""
        admission = self.admit()
        try:
            result = work()
        except BaseException as exc:
            self._ended(admission, exc)
            raise
        self.succeeded(admission)
        return result

    async def call_async(self, work: Callable[[], Awaitable[T]]) -> T:
        """Every Exception of `work` is a failure; a cancellation or an interrupt is not."""
        admission = self.admit()
        try:
            result = await work()
        except BaseException as exc:
            self._ended(admission, exc)
            raise
        self.succeeded(admission)
        return result

    def reset(self) -> None:
        """Close the circuit by hand."""
        with self._lock:
            self._failures, self._is_probing = 0, False
            self._changes += 1

    def trip(self) -> None:
        """Open the circuit by hand."""
        with self._lock:
            self._failures = max(self._failures, self.options.failure_threshold)
            self._open()

    def get_stats(self) -> CircuitBreakerStats:
        with self._lock:
            return CircuitBreakerStats(
                self._state(), self._failures, self._total_failures, self._total_successes, self._rejected
            )

    def _ended(self, admission: Admission, error: BaseException) -> None:
        if isinstance(error, Exception):
            self.failed(admission)
        else:
            self.abandoned(admission)

    def _open(self) -> None:
        self._failed_ms, self._is_probing = self._time.now(), False
        self._changes += 1

    def _refusal(self) -> CircuitBreakerError:
        if self._is_probing:
            wait_ms = min(FIRST_BACKOFF_MS, self.options.max_backoff_ms)
            why = "half open and its probe is under way"
        else:
            wait_ms = max(1, math.ceil(self._failed_ms + self._backoff_ms() - self._time.now()))
            why = f"open after {self._failures} failures in a row"
        return CircuitBreakerError(f"the circuit is {why}; try again in {wait_ms} ms", retry_after_ms=wait_ms)

    def _state(self) -> CircuitState:
        if self._failures < self.options.failure_threshold:
            return CircuitState.CLOSED
        if self._time.now() - self._failed_ms < self._backoff_ms():
            return CircuitState.OPEN
        return CircuitState.HALF_OPEN

    def _backoff_ms(self) -> float:
        doublings = min(max(0, self._failures - self.options.failure_threshold), 32)
        return min(FIRST_BACKOFF_MS * 2.0**doublings, self.options.max_backoff_ms)
