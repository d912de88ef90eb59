"""What one connection may say: its messages, its heartbeats, its frames. Pure; time and chance are arguments.

One per socket, asked for every frame (`take` costs 0.3 µs), and small enough to sleep in 18 bytes of a hibernating
socket's attachment. It knows no reason of a nack and no other connection.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from lakehouse.conf import Settings
from lakehouse.limits.bucket import TokenBucket
from rpc.batch import MESSAGE_BYTES_MAX

PACKED = struct.Struct("<QIIBB")
"""The moment in ms, units of the messages, units of the heartbeats, refusals in a row, size violations."""
assert PACKED.size == 18
DOUBLINGS_MAX = 10
BYTE_MAX = 255


@dataclass(frozen=True, slots=True)
class Headroom:
    """The numbers of `rateLimit` in an ack and of the X-RateLimit headers. `reset_at_s` is in Unix seconds."""

    limit: int
    remaining: int
    reset_at_s: int


def headroom(bucket: TokenBucket, *, limit: int, now_ms: int) -> Headroom:
    remaining = min(limit, bucket.remaining(now_ms))
    return Headroom(limit, remaining, -(-(now_ms + bucket.wait_ms(now_ms)) // 1000))


class Allowance:
    """The house's numbers, unless the access key has its own."""

    __slots__ = ("_settings", "heartbeats", "is_spent", "messages", "refusals", "violations")

    def __init__(
        self,
        settings: Settings,
        *,
        messages_per_second: int | None = None,
        burst_capacity: int | None = None,
        now_ms: int,
    ) -> None:
        self._settings = settings
        self.messages = TokenBucket(
            messages_per_second or settings.messages_per_second,
            burst_capacity or settings.burst_capacity,
            now_ms=now_ms,
        )
        self.heartbeats = TokenBucket(settings.heartbeats_per_second, settings.heartbeat_burst_capacity, now_ms=now_ms)
        self.refusals = 0
        """In a row, up to now."""
        self.is_spent = False
        """There was no token for what came last."""
        self.violations = 0

    def take(self, now_ms: int) -> bool:
        """Whether this message may be served; one that is not makes the next delay longer."""
        taken = self.messages.take(now_ms)
        self.is_spent = not taken
        self.refusals = 0 if taken else self.refusals + 1
        return taken

    def agree(self, *, is_taken: bool, units: int, now_ms: int) -> bool:
        """The same, as all processes together say."""
        self.messages.resume(units, at_ms=now_ms)
        self.is_spent = not is_taken
        self.refusals = 0 if is_taken else self.refusals + 1
        return is_taken

    def charge(self, now_ms: int) -> None:
        """Whatever is malformed or too large costs as much as what is not; the delays know nothing of it."""
        self.is_spent = not self.messages.take(now_ms)

    def take_heartbeat(self, now_ms: int) -> bool:
        taken = self.heartbeats.take(now_ms)
        self.is_spent = not taken
        self.refusals = 0 if taken else self.refusals
        return taken

    def retry_delay_ms(self, *, chance: float) -> int:
        """When to come back after the refusal just given; `chance` in [0, 1) spreads it by half up and down."""
        settings, doublings = self._settings, min(self.refusals, DOUBLINGS_MAX)
        grown = min(settings.base_retry_delay_ms << doublings, settings.max_retry_delay_ms)
        return -(-grown // 2) + int(grown * chance)

    def violate(self) -> bool:
        """Count something that was too large; whether that was one too many and the connection ends."""
        self.violations += 1
        return self.violations >= self._settings.max_size_violations

    def headroom(self, now_ms: int) -> Headroom:
        return headroom(self.messages, limit=self.messages.per_second, now_ms=now_ms)

    def pack(self, now_ms: int) -> bytes:
        self.messages.refill(now_ms)
        self.heartbeats.refill(now_ms)
        counts = min(self.refusals, BYTE_MAX), min(self.violations, BYTE_MAX)
        return PACKED.pack(max(now_ms, 0), self.messages.units, self.heartbeats.units, *counts)

    def unpack(self, packed: bytes) -> None:
        """Go on where a socket fell asleep; what is no packed allowance changes nothing."""
        if len(packed) == PACKED.size:
            at_ms, messages, heartbeats, self.refusals, self.violations = PACKED.unpack(packed)
            self.messages.resume(messages, at_ms=at_ms)
            self.heartbeats.resume(heartbeats, at_ms=at_ms)


def payload_bytes_max(settings: Settings, own: int | None) -> int:
    """Largest batch of a connection; `own` is what its access key says, if it says something."""
    return min(own or settings.max_payload_size, MESSAGE_BYTES_MAX)


def suggested_delay_ms(utilization: float, settings: Settings) -> int | None:
    """What an ack proposes while the buffer is nearly full."""
    return int(utilization * 500) if utilization > settings.backpressure_threshold else None
