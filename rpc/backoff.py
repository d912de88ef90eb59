"""How long to wait before the next try. Pure: chance comes in as a number."""

from __future__ import annotations


def delay_ms(attempt: int, *, initial_ms: int, max_ms: int, multiplier: float, chance: float) -> int:
    """Milliseconds before try number `attempt` (1 is the first one after a failure).

    `chance` in [0, 1) spreads the delay over its upper half, so that a thousand children of one parent do not come
    back in the same moment.
    """
    grown = min(initial_ms * multiplier ** min(attempt - 1, 64), max_ms)
    return int(grown * (0.5 + chance / 2))
