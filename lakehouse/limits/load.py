"""How busy a process is, and whose batches it sends away while it is too busy. Pure: gauges and chance come in."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    utilization: float
    """Of the parent's buffer; 1 is full."""
    intake_bytes: int
    """Accepted and not journalled yet."""
    lag_ms: float
    """How late the event loop is."""


def level(gauges: Gauges, settings: Settings) -> LoadLevel:
    """By the fullest of the three: any one of them alone makes children wait."""
    fullest = max(
        gauges.utilization, gauges.intake_bytes / settings.intake_bytes_max, gauges.lag_ms / settings.load_lag_ms_max
    )
    if fullest >= settings.load_critical:
        return LoadLevel.CRITICAL
    if fullest >= settings.load_high:
        return LoadLevel.HIGH
    return LoadLevel.ELEVATED if fullest >= settings.load_elevated else LoadLevel.NORMAL


def shed_delay_ms(load: LoadLevel, *, high_priority: bool, chance: float) -> int | None:
    """When a batch that is sent away may come back; None when it is served. `chance` in [0, 1)."""
    if load is not LoadLevel.CRITICAL or high_priority:
        return None
    return SHED_DELAY_MS + int(chance * SHED_SPREAD_MS)
