"""Which content was accepted lately, in memory and bounded: for a parent of one's own that has no journal.

A content is a repeat while it is at most as old as the window, the boundary included. Looking never records and a
repeat never makes a content younger, so it is asked before a batch is taken and told after it is stored. The parent in
`lakehouse` does not need this: it finds repeats in its database, where they outlive the process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b

from rpc.entries import from_wal, pack
from rpc.messages import WalEntry

__all__ = ["DEFAULT_DEDUP_CONFIG", "DedupConfig", "DedupStats", "DeduplicationTracker", "content_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupConfig:
    window_ms: int = 300_000
    max_entries_per_source: int = 10_000
    """Contents remembered of one source; the oldest is forgotten for one more."""
    max_sources: int = 1_000
    """The source that was heard of longest ago is forgotten for one more."""

    def __post_init__(self) -> None:
        for row in fields(self):
            value = getattr(self, row.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{row.name} is {value!r}, wanted a whole number of at least 1")


DEFAULT_DEDUP_CONFIG = DedupConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupStats:
    sources: int
    entries: int
    checks: int
    duplicates: int
    evicted: int
    """Contents forgotten for want of room, not of age."""

    @property
    def duplicate_rate(self) -> float:
        return self.duplicates / self.checks if self.checks else 0.0


class DeduplicationTracker:
    """`is_duplicate` asks, `record` tells; the time of both comes from the caller and should not go back."""

    def __init__(self, config: DedupConfig = DEFAULT_DEDUP_CONFIG) -> None:
        self.config = config
        self._sources: OrderedDict[str, OrderedDict[Hashable, int]] = OrderedDict()
        self._checks = self._duplicates = self._evicted = 0

    def is_duplicate(self, source: str, content: Hashable, *, now_ms: int) -> bool:
        """Whether this content of this source was recorded within the window."""
        self._checks += 1
        known = self._sources.get(source)
        recorded_ms = None if known is None else known.get(content)
        repeat = recorded_ms is not None and now_ms - recorded_ms <= self.config.window_ms
        self._duplicates += repeat
        return repeat

    def record(self, source: str, content: Hashable, *, now_ms: int) -> None:
        """Remember a content that was stored. One within the window keeps its time."""
        known = self._sources.setdefault(source, OrderedDict())
        self._sources.move_to_end(source)
        self._forget_old(known, now_ms)
        known.setdefault(content, now_ms)
        if len(known) > self.config.max_entries_per_source:
            known.popitem(last=False)
            self._evicted += 1
        if len(self._sources) > self.config.max_sources:
            _, forgotten = self._sources.popitem(last=False)
            self._evicted += len(forgotten)

    def cleanup(self, *, now_ms: int) -> None:
        """Forget what is older than the window, and sources of which nothing is left."""
        for source, known in list(self._sources.items()):
            self._forget_old(known, now_ms)
            if not known:
                del self._sources[source]

    def clear(self, source: str | None = None) -> None:
        """Forget a source, or everything."""
        if source is None:
            self._sources.clear()
        else:
            self._sources.pop(source, None)

    @property
    def stats(self) -> DedupStats:
        return DedupStats(
            sources=len(self._sources),
            entries=sum(map(len, self._sources.values())),
            checks=self._checks,
            duplicates=self._duplicates,
            evicted=self._evicted,
        )

    def _forget_old(self, known: OrderedDict[Hashable, int], now_ms: int) -> None:
        while known and now_ms - next(iter(known.values())) > self.config.window_ms:
            known.popitem(last=False)


def content_key(entries: Sequence[WalEntry]) -> bytes:
    """What makes two batches the same: their entries, and neither when nor how often they were sent."""
    digest = blake2b(digest_size=16)
    for entry in entries:
        digest.update(pack(from_wal(entry)._replace(metadata=b"")))
    return digest.digest()
