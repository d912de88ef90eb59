"""How much one message of this dialect may hold, and what is said to one that holds more. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rpc.batch import MESSAGE_BYTES_MAX
from rpc.dolake.refusals import NotTaken, Reason, Refusal
from rpc.echo import Echo

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WireLimits:
    """Sizes in bytes of JSON. Messages of the package have its own bound, 16 MiB."""

    max_payload_size: int = 4 * MIB
    max_events_per_message: int = 10_000
    max_event_size: int = 1 * MIB

    def __post_init__(self) -> None:
        for row in fields(self):
            value = getattr(self, row.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{row.name} is {value!r}, wanted a whole number of at least 1")
        if self.max_payload_size > MESSAGE_BYTES_MAX:
            raise ValueError(f"max_payload_size is {self.max_payload_size}, wanted at most {MESSAGE_BYTES_MAX}")


DEFAULT_WIRE_LIMITS = WireLimits()


def payload_too_large(size: int, limits: WireLimits, echo: Echo) -> NotTaken:
    text = f"message has {size} bytes; at most {limits.max_payload_size} are allowed"
    refusal = Refusal(Reason.PAYLOAD_TOO_LARGE, text, max_size=limits.max_payload_size, received_size=size)
    return NotTaken(refusal, echo)


def event_too_large(index: int, size: int, limits: WireLimits, echo: Echo) -> NotTaken:
    text = f"events[{index}]: has {size} bytes of JSON; at most {limits.max_event_size} are allowed"
    return NotTaken(Refusal(Reason.EVENT_TOO_LARGE, text, max_size=limits.max_event_size), echo)


def too_many_events(count: int, limits: WireLimits, echo: Echo) -> NotTaken:
    text = f"events: has {count} events; at most {limits.max_events_per_message} are allowed"
    return NotTaken(Refusal(Reason.TOO_MANY_EVENTS, text, max_size=limits.max_events_per_message), echo)
