"""The own limits of an access key. What it does not say is the house's to say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """None means: as for everybody."""

    max_payload_bytes: int | None = None
    """Of one batch; the protocol carries no message over 16 MiB."""
    messages_per_second: int | None = None
    """So fast the bucket of a connection fills again."""
    burst_capacity: int | None = None
    """So many messages a connection may send at once, out of a full bucket."""
    connections_max: int | None = None
    """Open connections with this key at a time, in all processes that share a Redis."""

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value: object = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"limit {name} is {value!r}, wanted a whole number from {low} to {high}")

    @classmethod
    def of(cls, wanted: Mapping[str, Any]) -> KeyLimits:
        """The limits a row or a command line holds. Raises ValueError naming what is unknown or cannot work."""
        if not isinstance(wanted, Mapping):
            raise ValueError(f'limits are {wanted!r}, wanted an object such as {{"messages_per_second": 100}}')
        known = [row.name for row in fields(cls)]
        if unknown := sorted(str(name) for name in wanted if name not in known):
            raise ValueError(f"unknown limit {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**wanted)


BOUNDS = {
    "max_payload_bytes": (1024, 16 * MIB),
    "messages_per_second": (1, 1_000_000),
    "burst_capacity": (1, 1_000_000),
    "connections_max": (1, 1_000_000),
}
"""From where to where a value can work."""
HOUSE_LIMITS = KeyLimits()
