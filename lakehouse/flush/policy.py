"""When a flush is wanted. Pure: what waits and the time come in, a reason goes out."""

from __future__ import annotations

from dataclasses import dataclass

from rpc.buffers import FlushTrigger
from rpc.config import ParentConfig

__all__ = ["FlushTrigger", "Waiting", "due", "due_at_ms"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a parent holds that is in no table yet. `oldest_ms` and `last_flush_ms` are moments."""

    entries: int
    size_bytes: int
    oldest_ms: int
    last_flush_ms: int


def due(waiting: Waiting, config: ParentConfig, *, now_ms: int) -> FlushTrigger | None:
    """Why a flush is wanted now, or None. Every threshold fires when it is reached.

    A batch from the future came while a clock was wrong; who waited for its moment would wait for hours.
    """
    if not waiting.entries:
        return None
    if waiting.entries >= config.flush_threshold_entries:
        return FlushTrigger.ENTRIES
    if waiting.size_bytes >= config.flush_threshold_bytes:
        return FlushTrigger.BYTES
    if abs(now_ms - waiting.oldest_ms) >= config.flush_threshold_ms:
        return FlushTrigger.AGE
    if now_ms - max(waiting.last_flush_ms, waiting.oldest_ms) >= config.flush_interval_ms:
        return FlushTrigger.INTERVAL
    return None


def due_at_ms(waiting: Waiting, config: ParentConfig) -> int:
    """The moment at which time alone makes a flush due."""
    by_age = waiting.oldest_ms + config.flush_threshold_ms
    by_interval = max(waiting.last_flush_ms, waiting.oldest_ms) + config.flush_interval_ms
    return min(by_age, by_interval)
