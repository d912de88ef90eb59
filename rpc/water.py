"""High and low water: a level that goes up and down becomes two announcements. Pure."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Water", "WaterMark"]


class Water(StrEnum):
    HIGH = "high"
    LOW = "low"


class WaterMark:
    """A level of 0 to 1. Reaching `high` is told once, then sinking to `low` is, then `high` again."""

    def __init__(self, *, high: float, low: float) -> None:
        self._high = high
        self._low = low
        self.is_high = False

    def look(self, level: float) -> Water | None:
        """What to announce now that the level is this."""
        if not self.is_high and level >= self._high:
            self.is_high = True
            return Water.HIGH
        if self.is_high and level <= self._low:
            self.is_high = False
            return Water.LOW
        return None
