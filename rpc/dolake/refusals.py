"""Why a batch of this dialect is not taken, and when to come back with it. Pure: chance comes in as a number."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rpc.echo import Echo
from rpc.errors import ProtocolError
from rpc.messages import NackReason


class Reason(StrEnum):
    INVALID_FORMAT = "invalid_format"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    EVENT_TOO_LARGE = "event_too_large"
    TOO_MANY_EVENTS = "too_many_events"
    RATE_LIMITED = "rate_limited"
    LOAD_SHEDDING = "load_shedding"
    BUFFER_FULL = "buffer_full"
    INVALID_SEQUENCE = "invalid_sequence"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL_ERROR = "internal_error"

    @property
    def of_the_package(self) -> NackReason:
        """The nearest of the reasons that @evodb/rpc knows."""
        return _NEAREST.get(self) or NackReason(self.value)

    @property
    def is_size_violation(self) -> bool:
        """Something was larger than the child may send; who does that again and again is sent away."""
        return self in _SIZE_VIOLATIONS


_SIZE_VIOLATIONS = {Reason.PAYLOAD_TOO_LARGE, Reason.EVENT_TOO_LARGE, Reason.TOO_MANY_EVENTS}
_NEAREST = dict.fromkeys(_SIZE_VIOLATIONS, NackReason.INVALID_FORMAT) | {Reason.LOAD_SHEDDING: NackReason.RATE_LIMITED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """The parent's state as an answer tells it; the shell fills it in."""

    limit: int
    """Messages that this connection may send in a row when it has been quiet."""
    remaining_tokens: int
    bucket_capacity: int
    reset_at_s: int
    """Unix time at which the bucket is full again."""
    time_until_flush_ms: int
    circuit_breaker_state: str
    """That of the object store: closed, open or half_open."""
    backpressure_threshold: float = 0.8
    """An ack of a buffer that is fuller than this suggests a delay."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Without a delay there is no use in trying again."""

    reason: Reason
    text: str
    retry_delay_ms: int | None = None
    max_size: int | None = None
    """The bound that was in the way, in its own unit."""
    received_size: int | None = None
    gauges: Gauges | None = None


class NotTaken(ProtocolError):
    """A message that is in this dialect without doubt, and refused."""

    code = "NOT_TAKEN"

    def __init__(self, refusal: Refusal, echo: Echo) -> None:
        super().__init__(refusal.text, sequence_number=echo.sequence_number, correlation_id=echo.correlation_id)
        self.refusal = refusal


BASE_RETRY_DELAY_MS = 100
MAX_RETRY_DELAY_MS = 30_000
DOUBLINGS_MAX = 10
SOON_MS = 1000
"""For what passes by itself: another process takes over, or somebody looks after this one."""
SHED_MS = range(50, 150)
FULL_MS = range(1000, 5001)


def retry_delay_ms(
    reason: Reason,
    *,
    refusals: int,
    chance: float,
    base_ms: int = BASE_RETRY_DELAY_MS,
    max_ms: int = MAX_RETRY_DELAY_MS,
) -> int | None:
    """When to come back after this refusal, the `refusals`-th in a row, or None when that cannot help.

    `chance` in [0, 1) spreads the delays, so that children refused together do not come back together.
    """
    match reason:
        case Reason.RATE_LIMITED:
            return int(min(base_ms * 2 ** min(refusals, DOUBLINGS_MAX), max_ms) * (0.5 + chance))
        case Reason.LOAD_SHEDDING:
            return SHED_MS[int(chance * len(SHED_MS))]
        case Reason.BUFFER_FULL:
            return FULL_MS[int(chance * len(FULL_MS))]
        case Reason.SHUTTING_DOWN | Reason.INTERNAL_ERROR:
            return SOON_MS
        case _:
            return None
