"""How busy a process is, and whose batches it sends away while it is too busy. Pure, gauges and chance come in."""

from __future__ import annotations

from enum import StrEnum

from lakehouse.conf import Settings

SHED_DELAY_MS = 50
SHED_SPREAD_MS = 100


class LoadLevel(StrEnum):
    NORMAL = "normal"
    ELEVATED = "elevated"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def is_degraded(self) -> bool:
        return self in (LoadLevel.HIGH, LoadLevel.CRITICAL)


def level(utilization: float, settings: Settings, *, intake_bytes: int, lag_ms: float) -> LoadLevel:
    """By the fullest of the three: any one of them alone makes children wait.

    `utilization` is of the parent's buffer, 1 is full; `intake_bytes` are accepted and not journalled yet; `lag_ms` is
    how late the event loop is. Asked for every batch: 0.8 µs.
    """
    fullest = max(utilization, intake_bytes / settings.intake_bytes_max, lag_ms / settings.load_lag_ms_max)
    if fullest < settings.load_elevated:
        return LoadLevel.NORMAL
    if fullest < settings.load_high:
        return LoadLevel.ELEVATED
    return LoadLevel.HIGH if fullest < settings.load_critical else LoadLevel.CRITICAL


def shed_delay_ms(load: LoadLevel, *, high_priority: bool, chance: float) -> int | None:
    """When a batch that is sent away may come back; None when it is served. `chance` in [0, 1)."""
    if load is not LoadLevel.CRITICAL or high_priority:
        return None
    return SHED_DELAY_MS + int(chance * SHED_SPREAD_MS)
