"""An outage without one: a clock that stands until it is moved, and a breaker that says the store is away."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse.models import StoreBreaker
from tests.builders import NOW_MS

OPEN_MS = 30_000


@dataclass
class Clock:
    ms: int = NOW_MS

    def __call__(self) -> int:
        return self.ms


def go_away(now_ms: int, *, open_ms: int = OPEN_MS) -> None:
    """The breaker opens; its time begins."""
    opened = {"state": "open", "open_until_ms": now_ms + open_ms, "opened_total": 2}
    StoreBreaker.objects.update_or_create(pk=1, defaults=opened)


def come_back() -> None:
    StoreBreaker.objects.update(state="closed", failures=0)
