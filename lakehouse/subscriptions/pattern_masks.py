"""Patterns asked all at once: each is a bit of a whole number, and what fits is left over. Pure.

What is left after every segment of an event's type was asked is the answer, so an event costs what its type is long,
and little of it grows with the patterns. An ordinary pattern has at most one `**`, and at most one star in a segment:
it says what the first segments are and what the last ones. All others are wide. Those are walked letter by letter, all
at once as well, with a bit for each of their letters; that is why there is a bound to their letters.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import TypeVar

FEW = 8
"""Numbers that are kept as they are; a mask of them all would be long and empty."""
MANY = 64
_FLAGS = bytes.maketrans(b"01", b"\0\1")

T = TypeVar("T")
Numbers = int | tuple[int, ...]
"""A mask, or the few bits of it."""


def chosen(values: Sequence[T], mask: int) -> Iterable[T]:
    """Those whose bit is set."""
    if mask.bit_count() > MANY:
        return compress(values, bin(mask)[:1:-1].encode().translate(_FLAGS))
    found = []
    while mask:
        lowest = mask & -mask
        found.append(values[lowest.bit_length() - 1])
        mask ^= lowest
    return found


def mask_of(numbers: Iterable[int]) -> int:
    found = bytearray()
    for number in numbers:
        if number >> 3 >= len(found):
            found.extend(bytes((number >> 3) + 1 - len(found)))
        found[number >> 3] |= 1 << (number & 7)
    return int.from_bytes(found, "little")


class Slot:
    """What patterns want of one segment, such as the first or the last: a text, or how it begins and ends."""

    def __init__(self, wanted: Sequence[tuple[int, str]], everybody: int) -> None:
        literals, starts, ends = (defaultdict[str, list[int]](list) for _ in range(3))
        lengths: defaultdict[int, list[int]] = defaultdict(list)
        for number, segment in wanted:
            start, star, end = segment.partition("*")
            if star:
                starts[start].append(number)
                ends[end].append(number)
                lengths[len(start) + len(end)].append(number)
            else:
                literals[segment].append(number)
        self._anything = everybody ^ mask_of(number for number, _ in wanted)
        self._literals, self._starts, self._ends = _kept(literals), _kept(starts), _kept(ends)
        self._start_lengths = sorted({len(start) for start in starts})
        self._end_lengths = sorted({len(end) for end in ends})
        self._lengths = sorted(lengths)
        self._within = [0]
        for length in self._lengths:
            self._within.append(self._within[-1] | mask_of(lengths[length]))

    def fitting(self, segment: str) -> int:
        found = self._anything | _mask(self._literals.get(segment, 0))
        within = self._within[bisect_right(self._lengths, len(segment))]
        if within and (begun := self._begun(segment)):
            found |= begun & within & self._ended(segment)
        return found

    def _begun(self, segment: str) -> int:
        found = 0
        for length in self._start_lengths:
            if length > len(segment):
                break
            if (numbers := self._starts.get(segment[:length])) is not None:
                found |= _mask(numbers)
        return found

    def _ended(self, segment: str) -> int:
        found = 0
        for length in self._end_lengths:
            if length > len(segment):
                break
            if (numbers := self._ends.get(segment[len(segment) - length :])) is not None:
                found |= _mask(numbers)
        return found


class Ordinary:
    """Patterns of which each has at most one `**`, and at most one star in a segment; by the order they came in."""

    def __init__(self, patterns: Sequence[Sequence[str]]) -> None:
        exact, deep = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
        fronts, backs = (defaultdict[int, list[tuple[int, str]]](list) for _ in range(2))
        for number, segments in enumerate(patterns):
            at = segments.index("**") if "**" in segments else len(segments)
            front, back = segments[:at], segments[:at:-1]
            (deep if at < len(segments) else exact)[len(front) + len(back)].append(number)
            for slots, given in ((fronts, front), (backs, back)):
                for position, segment in enumerate(given):
                    slots[position] += [] if segment == "*" else [(number, segment)]
        everybody = (1 << len(patterns)) - 1
        self._fronts = [Slot(fronts[position], everybody) for position in range(len(fronts))]
        self._backs = [Slot(backs[position], everybody) for position in range(len(backs))]
        self._exact = {length: mask_of(numbers) for length, numbers in exact.items()}
        self._deep = [(length, mask_of(numbers)) for length, numbers in deep.items()]

    def fitting(self, segments: Sequence[str]) -> int:
        found = self._exact.get(len(segments), 0)
        for length, mask in self._deep:
            if length <= len(segments):
                found |= mask
        for slots, asked in ((self._fronts, segments), (self._backs, segments[::-1])):
            for slot, segment in zip(slots, asked, strict=False):
                if not found:
                    return 0
                found &= slot.fitting(segment)
        return found


class Wide:
    """Any patterns. A bit says that a text got behind a letter of one: each letter moves it to the next, a star keeps
    it within the segment, and a `**`, which has a bit itself, across dots as well. Each segment has a dot before it.
    """

    def __init__(self, patterns: Sequence[Sequence[str]]) -> None:
        self._on: defaultdict[str, int] = defaultdict(int)
        """The bits a letter leads to."""
        self._begun = self._stays = self._deep = self._ends = 0
        self._before_deep = self._skips = 0
        """Bits before a `**`; and those of them that something comes behind."""
        self.owners: list[int] = []
        """Whose bit it is."""
        masks = defaultdict[str, list[int]](list)
        for number, segments in enumerate(patterns):
            self._add(number, segments, masks)
        self._on.update({name: mask_of(bits) for name, bits in masks.items() if len(name) == 1})
        for name in ("begun", "stays", "deep", "ends", "before_deep", "skips"):
            setattr(self, f"_{name}", mask_of(masks[name]))

    def fitting(self, event_type: str) -> int:
        """The bits of those that fit."""
        state, loops = self._begun, self._stays | self._deep
        for letter in "." + event_type:
            is_dot = letter == "."
            moved = (state << 1) & self._on.get(letter, 0)
            skipped = (state & self._skips) << 2 if is_dot else 0
            state = moved | skipped | (state & (self._deep if is_dot else loops))
            if not state:
                return 0
        return (state | (state & self._before_deep) << 1) & self._ends

    def _add(self, number: int, segments: Sequence[str], masks: dict[str, list[int]]) -> None:
        first = bit = len(self.owners)
        masks["begun"].append(bit)
        for at, segment in enumerate(segments):
            if segment == "**":
                masks["before_deep"].append(bit)
                if at + 1 < len(segments):
                    masks["skips"].append(bit)
                bit += 1
                masks["."].append(bit)
                masks["deep"].append(bit)
                continue
            for letter in "." + segment:
                if letter == "*":
                    masks["stays"].append(bit)
                else:
                    bit += 1
                    masks[letter].append(bit)
        masks["ends"].append(bit)
        self.owners += [number] * (bit + 1 - first)


def _kept(found: dict[str, list[int]]) -> dict[str, Numbers]:
    return {text: tuple(some) if len(some) < FEW else mask_of(some) for text, some in found.items()}


def _mask(numbers: Numbers) -> int:
    if isinstance(numbers, int):
        return numbers
    found = 0
    for number in numbers:
        found |= 1 << number
    return found
