"""The one place of the child's half that asks what time it is; everything below gets it as an argument."""

from __future__ import annotations

import time
from collections.abc import Callable

from rpc.failpoints import CLOCK_SHIFT_MS


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000 + CLOCK_SHIFT_MS


def steady_ms() -> Callable[[], int]:
    """A clock for timers: milliseconds since 1970 as of now, and from here on unmoved by whoever sets the time."""
    begun_ms, begun_ns = now_ms(), time.monotonic_ns()
    return lambda: begun_ms + (time.monotonic_ns() - begun_ns) // 1_000_000
