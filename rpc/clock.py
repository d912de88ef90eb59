"""The one place of the child's half that asks what time it is; everything below gets it as an argument."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

SHIFT_MS = int(os.environ.get("EVODB_CLOCK_SHIFT_MS") or 0)
"""For tests: how far this process is ahead of its time."""


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000 + SHIFT_MS


def steady_ms() -> Callable[[], int]:
    """A clock for timers: milliseconds since 1970 as of now, and from here on unmoved by whoever sets the time."""
    begun_ms, begun_ns = now_ms(), time.monotonic_ns()
    return lambda: begun_ms + (time.monotonic_ns() - begun_ns) // 1_000_000
