"""How busy this process is for one parent."""

from __future__ import annotations

from lakehouse.limits.load import Gauges, LoadLevel, level
from lakehouse.parent.house import House


def load_of(house: House, parent_id: int, *, utilization: float = 0.0) -> LoadLevel:
    """`utilization` of the parent's buffer, if more is known of it than what this process journalled."""
    return level(
        Gauges(
            utilization=max(utilization, house.alarms.utilization(parent_id)),
            intake_bytes=house.intake.waiting_bytes,
            lag_ms=house.lag.ms,
        ),
        house.settings,
    )
