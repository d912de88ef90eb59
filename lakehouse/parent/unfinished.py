"""Messages that have come in part: what they hold of a process's memory, and for how long they may.

A child may begin a message of 16 MiB and never end it; 20 of them held 311 MiB that nobody counted. All of a process
share a bound, and whoever does not end a message in time is let go.
"""

from __future__ import annotations

WITHIN_S = 60.0
"""A message that began has to end; 16 MiB in this time are 2 Mbit/s."""


class Unfinished:
    """For one process."""

    def __init__(self, *, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0


class Part:
    """What one socket holds."""

    __slots__ = ("_all", "_begun_s", "_message", "held_bytes")

    def __init__(self, unfinished: Unfinished) -> None:
        self._all = unfinished
        self._message: object = None
        self._begun_s = 0.0
        self.held_bytes = 0

    def is_held(self, size_bytes: int, *, of: object, now_s: float) -> bool:
        """This socket holds so many bytes of this message now; whether it may.

        Who sends without a pause always holds a part of some message; only one that stays the same can be late.
        """
        if of is not self._message:
            self._message, self._begun_s = of, now_s
        self._all.held_bytes += size_bytes - self.held_bytes
        self.held_bytes = size_bytes
        return not size_bytes or self._all.held_bytes <= self._all.bytes_max

    def is_late(self, *, now_s: float) -> bool:
        return bool(self.held_bytes) and now_s - self._begun_s > WITHIN_S
