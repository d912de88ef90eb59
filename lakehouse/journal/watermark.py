"""How far a child's sequences are durable: a contiguous prefix, and islands beyond the first gap. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ISLANDS_MAX = 64
"""Beyond so many islands the highest is forgotten: its batches may be sent again and are then found in the journal."""


@dataclass(slots=True)
class Watermark:
    """Every sequence up to `sequence` is durable, and every one of `islands` ([first, last], ascending, above it)."""

    sequence: int = 0
    islands: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, sequence: int, islands: Sequence[Sequence[int]]) -> Watermark:
        return cls(sequence, [list(island) for island in islands])

    def __contains__(self, sequence: int) -> bool:
        if sequence <= self.sequence or not self.islands:
            return sequence <= self.sequence
        return any(first <= sequence <= last for first, last in self.islands)

    def add(self, sequence: int) -> None:
        if sequence in self:
            return
        if sequence == self.sequence + 1 and not self.islands:
            self.sequence = sequence
            return
        self.islands.append([sequence, sequence])
        self.islands.sort()
        self._merge()

    def _merge(self) -> None:
        merged: list[list[int]] = [[self.sequence, self.sequence]]
        for first, last in self.islands:
            if first <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], last)
            else:
                merged.append([first, last])
        self.sequence = merged[0][1]
        self.islands = merged[1 : ISLANDS_MAX + 1]
