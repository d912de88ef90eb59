"""When a message is tried again, and when that makes no sense. Pure; chance is an argument.

1, 2, 4, 8 s and so on, never more than five minutes, and up to a second more by chance so that what failed together
does not come back together. A target that says when to come back is believed, up to the same bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FIRST_MS = 1000
MOST_MS = 300_000
JITTER_MS = 1000
FOR_GOOD = (400, 404, 413, 422)
"""The same message will be refused again."""
GONE = 410


class Reason(StrEnum):
    """Why a message became a dead letter."""

    MAX_RETRIES_EXCEEDED = "max_retries_exceeded"
    REJECTED = "rejected"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt. `delivered` are the ids a batch's receiver took; None means all or nothing."""

    ok: bool
    status: int | None = None
    error: str = ""
    retry_after_ms: int | None = None
    delivered: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Again:
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Dead:
    reason: Reason


def next_of(outcome: Outcome, *, attempts_made: int, attempts_max: int, chance: float) -> Again | Dead:
    """What follows a failure; `attempts_made` counts it."""
    if outcome.status == GONE:
        return Dead(Reason.GONE)
    if outcome.status in FOR_GOOD:
        return Dead(Reason.REJECTED)
    if attempts_made >= attempts_max:
        return Dead(Reason.MAX_RETRIES_EXCEEDED)
    return Again(delay_ms(attempts_made, chance=chance, retry_after_ms=outcome.retry_after_ms))


def delay_ms(attempts_made: int, *, chance: float, retry_after_ms: int | None = None) -> int:
    """How long to wait after so many attempts. `chance` is from 0 to 1."""
    backoff = FIRST_MS << min(max(attempts_made - 1, 0), 10)
    return min(max(backoff, retry_after_ms or 0) + int(chance * JITTER_MS), MOST_MS)
