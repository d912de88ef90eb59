"""GET /metrics: what the database says of the parents a key may see, and what this process counts."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async

from lakehouse import metrics
from lakehouse.flush import breaker_row
from lakehouse.flush.breaker import BreakerState
from lakehouse.http import samples
from lakehouse.http.past import LongTotals
from lakehouse.journal.intake import Intake
from lakehouse.metrics import COMMIT_SECONDS, Sample, histogram
from lakehouse.parent import leases
from lakehouse.parent.grants import Grant
from lakehouse.parent.house import House

BREAKER_LEVELS = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


async def scrape(house: House, grant: Grant) -> str:
    totals = _totals.get(house.intake)
    if totals is None:
        totals = _totals[house.intake] = LongTotals()
    of_parents = await sync_to_async(_of_parents)(totals, grant, house.now_ms())
    of_breaker = await sync_to_async(_of_breaker)()
    return metrics.text([*of_parents, *of_breaker, *_of_process(house)])


def _of_breaker() -> list[Sample]:
    row = breaker_row.read()
    level = BREAKER_LEVELS[BreakerState(row.state)]
    return [
        Sample("dolake_circuit_breaker", (), level),
        Sample("dolake_circuit_breaker_opened_total", (), row.opened_total),
    ]


def _of_parents(totals: LongTotals, grant: Grant, now_ms: int) -> list[Sample]:
    leases.bury(now_ms=now_ms)
    return samples.of_parents(totals, patterns=grant.parents, namespaces=grant.namespaces, now_ms=now_ms)


def _of_process(house: House) -> list[Sample]:
    tally = house.doorman.tally
    counted = {
        "dolake_active_connections": len(house.doorman.gate.guests),
        "dolake_hibernating_connections": house.dormitory.asleep,
        "dolake_hibernating_connection_bytes": house.dormitory.kept_bytes(),
        "dolake_peak_connections": tally.peak_connections,
        "dolake_intake_bytes": house.intake.waiting_bytes,
        "dolake_rate_limited_total": tally.messages_rate_limited,
        "dolake_payload_rejections": tally.payload_rejections,
        "dolake_event_size_rejections": tally.event_size_rejections,
        "dolake_connections_rate_limited": tally.connections_rate_limited,
        "dolake_ip_rejections": tally.ip_rejections,
        "dolake_load_shedding_events": tally.load_shedding_events,
    }
    commits = house.intake.commits
    took = histogram("dolake_commit_seconds", (), commits.counts, commits.total_s, bounds=COMMIT_SECONDS)
    return [*(Sample(name, (), value) for name, value in counted.items()), *took]


_totals: WeakKeyDictionary[Intake, LongTotals] = WeakKeyDictionary()
