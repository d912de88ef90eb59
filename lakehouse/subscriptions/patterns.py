"""Which subscriptions an event is for: patterns, and an index that asks all of them at once. Pure.

A pattern has segments divided by dots. `*` is any text within one segment, also a part of it (`web*.push`); `**` as a
whole segment is any number of segments, none included. Case counts.

What a type costs that was never asked for is bounded, whoever wrote the patterns: those with more than one `**`, or
with several stars in a segment, are wide, and of their letters a parent has at most WIDE_CHARS_MAX.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar

from lakehouse.subscriptions.pattern_masks import Ordinary, Wide, chosen

PATTERN_CHARS_MAX = 256
SEGMENTS_MAX = 10
WIDE_CHARS_MAX = 16_384
REMEMBERED_MAX = 4096
"""Types whose answer is remembered; a lake has few and asks for them all day."""
REMEMBERED_VALUES_MAX = 1_000_000
_ALLOWED = re.compile(r"[A-Za-z0-9._*-]+\Z")

T = TypeVar("T")


def complaint(pattern: str) -> str | None:
    """What is wrong with a pattern, or None."""
    shown = repr(pattern[:60])
    if not 1 <= len(pattern) <= PATTERN_CHARS_MAX:
        return f"pattern has {len(pattern)} characters, wanted 1 to {PATTERN_CHARS_MAX}"
    if not _ALLOWED.match(pattern):
        return f"pattern is {shown}, wanted letters, digits, dots, -, _ and *"
    segments = pattern.split(".")
    if len(segments) > SEGMENTS_MAX:
        return f"pattern has {len(segments)} segments, wanted at most {SEGMENTS_MAX}"
    if not all(segments):
        return f"pattern is {shown}, which has an empty segment; wanted something between the dots"
    for segment in segments:
        if "**" in segment and segment != "**":
            return f"pattern is {shown}; wanted ** as a whole segment, and * for a part of one"
    return None


def wide_chars(pattern: str) -> int:
    """How many letters of it every type is walked against; of an ordinary one none."""
    return len(pattern) if _is_wide(_in_order(pattern.split("."))) else 0


class PatternIndex(Generic[T]):
    """Values by their patterns. What is added must have no complaint."""

    def __init__(self) -> None:
        self._literal: dict[str, list[T]] = {}
        self._with_stars: dict[tuple[str, ...], list[T]] = {}
        self._masks: _Masks[T] | None = None
        self._remembered: dict[str, tuple[T, ...]] = {}
        self._remembered_values = 0

    def add(self, pattern: str, value: T) -> None:
        if "*" in pattern:
            self._with_stars.setdefault(_in_order(pattern.split(".")), []).append(value)
            self._masks = None
        else:
            self._literal.setdefault(pattern, []).append(value)
        self._forget()

    def match(self, event_type: str) -> tuple[T, ...]:
        """The values of all patterns that fit, each once."""
        found = self._remembered.get(event_type)
        if found is None:
            found = tuple(self.walk(event_type))
            if len(self._remembered) >= REMEMBERED_MAX or self._remembered_values > REMEMBERED_VALUES_MAX:
                self._forget()
            self._remembered[event_type] = found
            self._remembered_values += len(found)
        return found

    def walk(self, event_type: str) -> list[T]:
        """The same without a memory."""
        if self._masks is None:
            self._masks = _Masks(self._with_stars)
        return [*self._literal.get(event_type, ()), *self._masks.fitting(event_type)]

    def _forget(self) -> None:
        self._remembered.clear()
        self._remembered_values = 0


class _Masks(Generic[T]):
    """Values by patterns that have stars."""

    def __init__(self, patterns: dict[tuple[str, ...], list[T]]) -> None:
        ordinary = [one for one in patterns if not _is_wide(one)]
        wide = [one for one in patterns if _is_wide(one)]
        self._ordinary, self._wide = Ordinary(ordinary), Wide(wide)
        self._of_ordinary = [patterns[one] for one in ordinary]
        self._of_wide = [patterns[wide[owner]] for owner in self._wide.owners]

    def fitting(self, event_type: str) -> Iterator[T]:
        ordinary = chosen(self._of_ordinary, self._ordinary.fitting(event_type.split(".")))
        wide = chosen(self._of_wide, self._wide.fitting(event_type))
        return chain.from_iterable(chain(ordinary, wide))


def _is_wide(segments: Sequence[str]) -> bool:
    """Of segments in their order."""
    return segments.count("**") > 1 or any(one.count("*") > 1 for one in segments if one != "**")


def _in_order(segments: Sequence[str]) -> tuple[str, ...]:
    """The same pattern with fewer ways to fit: of neighbours that are stars alone, each `*` and then one `**`."""
    found: list[str] = []
    is_deep = False
    for segment in segments:
        if is_deep and segment not in ("*", "**"):
            found.append("**")
            is_deep = False
        if segment == "**":
            is_deep = True
        else:
            found.append(segment)
    return (*found, "**") if is_deep else tuple(found)
