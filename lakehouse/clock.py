"""The one place that asks what time it is; everything below gets it as an argument."""

from __future__ import annotations

import time

from rpc.failpoints import CLOCK_SHIFT_MS


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000 + CLOCK_SHIFT_MS
