"""Which subscriptions an event is for: patterns, and an index that asks all of them at once. Pure.

A pattern has segments divided by dots. `*` is any text within one segment, also a part of it (`web*.push`); `**` as a
whole segment is any number of segments, none included. Case counts.

All patterns lie in one tree, segment by segment, and an event walks it with the set of places it may be at. No place is
visited twice for a segment, so the worst anybody can build costs patterns x segments, whatever the stars.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Generic, TypeVar

PATTERN_CHARS_MAX = 256
SEGMENTS_MAX = 10
REMEMBERED_MAX = 4096
"""Types whose answer is remembered; a lake has few and asks for them all day."""
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


def matches(pattern: str, event_type: str) -> bool:
    """Whether one pattern fits. For many of them there is the index."""
    index: PatternIndex[bool] = PatternIndex()
    index.add(pattern, True)
    return bool(index.match(event_type))


class PatternIndex(Generic[T]):
    """Values by their patterns. What is added must have no complaint."""

    def __init__(self) -> None:
        self._root: _Place[T] = _Place()
        self._remembered: dict[str, tuple[T, ...]] = {}

    def add(self, pattern: str, value: T) -> None:
        place = self._root
        for segment in _in_order(pattern.split(".")):
            place = place.at(segment)
        place.values.append(value)
        self._remembered.clear()

    def match(self, event_type: str) -> tuple[T, ...]:
        """The values of all patterns that fit, each once."""
        found = self._remembered.get(event_type)
        if found is None:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            found = self._remembered[event_type] = tuple(self.walk(event_type))
        return found

    def walk(self, event_type: str) -> Iterator[T]:
        """The same without a memory."""
        places = _with_none_skipped({self._root: None})
        for segment in event_type.split("."):
            following: dict[_Place[T], None] = {}
            for place in places:
                place.step(segment, following)
            if not following:
                return
            places = _with_none_skipped(following)
        for place in places:
            yield from place.values


class _Place(Generic[T]):
    """Behind the first segments of some patterns."""

    __slots__ = ("any", "deep", "globs", "is_deep", "literals", "values")

    def __init__(self, *, is_deep: bool = False) -> None:
        self.literals: dict[str, _Place[T]] = {}
        self.any: _Place[T] | None = None
        self.globs: _Globs[T] | None = None
        self.deep: _Place[T] | None = None
        self.is_deep = is_deep
        self.values: list[T] = []

    def at(self, segment: str) -> _Place[T]:
        """The place behind this segment of a pattern."""
        if segment == "**":
            self.deep = self.deep or _Place(is_deep=True)
            return self.deep
        if segment == "*":
            self.any = self.any or _Place()
            return self.any
        if "*" in segment:
            self.globs = self.globs or _Globs()
            return self.globs.at(segment)
        return self.literals.setdefault(segment, _Place())

    def step(self, segment: str, following: dict[_Place[T], None]) -> None:
        """Note the places behind this segment of an event."""
        if self.is_deep:
            following[self] = None
        if (literal := self.literals.get(segment)) is not None:
            following[literal] = None
        if self.any is not None:
            following[self.any] = None
        if self.globs is not None:
            self.globs.step(segment, following)


class _Globs(Generic[T]):
    """Segments with stars in them, found by how they begin, else by how they end."""

    __slots__ = ("_by_end", "_by_start", "_ends", "_known", "_others", "_starts")

    def __init__(self) -> None:
        self._known: dict[str, _Place[T]] = {}
        self._by_start: dict[str, list[tuple[list[str], _Place[T]]]] = {}
        self._by_end: dict[str, list[tuple[list[str], _Place[T]]]] = {}
        self._others: list[tuple[str, list[str], _Place[T]]] = []
        self._starts: list[int] = []
        self._ends: list[int] = []

    def at(self, glob: str) -> _Place[T]:
        place = self._known.get(glob)
        if place is not None:
            return place
        place = self._known[glob] = _Place()
        parts = glob.split("*")
        if parts[0]:
            self._by_start.setdefault(parts[0], []).append((parts, place))
            self._starts = sorted({len(start) for start in self._by_start})
        elif parts[-1]:
            self._by_end.setdefault(parts[-1], []).append((parts, place))
            self._ends = sorted({len(end) for end in self._by_end})
        else:
            self._others.append((max(parts, key=len), parts, place))
        return place

    def step(self, segment: str, following: dict[_Place[T], None]) -> None:
        for length in self._starts:
            if length > len(segment):
                break
            for parts, place in self._by_start.get(segment[:length], ()):
                if _fits(parts, segment):
                    following[place] = None
        for length in self._ends:
            if length > len(segment):
                break
            for parts, place in self._by_end.get(segment[-length:], ()):
                if _fits(parts, segment):
                    following[place] = None
        for longest, parts, place in self._others:
            if longest in segment and _fits(parts, segment):
                following[place] = None


def _in_order(segments: list[str]) -> Iterator[str]:
    """The same pattern with fewer ways to fit: of neighbours that are stars alone, each `*` and then one `**`."""
    is_deep = False
    for segment in segments:
        if segment == "**":
            is_deep = True
        elif segment == "*":
            yield segment
        else:
            if is_deep:
                yield "**"
            is_deep = False
            yield segment
    if is_deep:
        yield "**"


def _with_none_skipped(places: dict[_Place[T], None]) -> dict[_Place[T], None]:
    """These, and those behind a `**` that stands for no segment at all."""
    found = dict(places)
    for place in places:
        deep = place.deep
        while deep is not None and deep not in found:
            found[deep] = None
            deep = deep.deep
    return found


def _fits(parts: list[str], text: str) -> bool:
    """Whether a text has these parts in their order, the first at its start and the last at its end; no way back."""
    first, last = parts[0], parts[-1]
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for part in parts[1:-1]:
        position = text.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return True
