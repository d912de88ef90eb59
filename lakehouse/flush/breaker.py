"""When the object store is asked, and when not: a breaker with three states. Pure: the time comes in.

Closed, every flush goes to the lake. After `failures_max` in a row that found the store away it is open, and nobody
asks for `open_ms`. Then one flush is the probe, half open, and decides: closed, or open again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum, auto

__all__ = ["BreakerState", "Patience", "Seen", "Way", "failed", "probing", "released", "succeeded", "way"]


class BreakerState(StrEnum):
    """As the wire says it."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Way(StrEnum):
    """Where a flush goes."""

    LAKE = auto()
    PROBE = auto()
    """To the lake, and everybody waits for what it finds."""
    FALLBACK = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    failures_max: int
    open_ms: int
    probe_ms: int
    """A probe that says nothing for so long is dead, and another one begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The breaker at one moment."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    open_until_ms: int = 0
    probe_until_ms: int = 0


def way(seen: Seen, *, now_ms: int) -> Way:
    """Where a flush that begins now goes. Whoever hears PROBE has to take it first."""
    if seen.state is BreakerState.CLOSED:
        return Way.LAKE
    until_ms = seen.open_until_ms if seen.state is BreakerState.OPEN else seen.probe_until_ms
    return Way.PROBE if now_ms >= until_ms else Way.FALLBACK


def probing(seen: Seen, patience: Patience, *, now_ms: int) -> Seen:
    """Somebody has taken the probe."""
    return replace(seen, state=BreakerState.HALF_OPEN, probe_until_ms=now_ms + patience.probe_ms)


def failed(seen: Seen, patience: Patience, *, now_ms: int) -> Seen:
    """The store was away, for the probe or for a flush while it was closed."""
    failures = seen.failures + 1
    if seen.state is BreakerState.CLOSED and failures < patience.failures_max:
        return replace(seen, failures=failures)
    return Seen(state=BreakerState.OPEN, failures=failures, open_until_ms=now_ms + patience.open_ms)


def succeeded() -> Seen:
    """The store took what it was given."""
    return Seen()


def released(seen: Seen, *, now_ms: int) -> Seen:
    """The probe ended without a word about the store; the next flush is the probe."""
    return replace(seen, state=BreakerState.OPEN, open_until_ms=now_ms)
