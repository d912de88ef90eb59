"""A child asks for a flush and hears when everything that was durable by then is in its tables."""

from __future__ import annotations

import asyncio

from django.db import Error as DatabaseError
from django.db.models import Max, Sum

from lakehouse.flush import backlog
from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import Flush, FlushState, FlushTable
from lakehouse.parent.house import House
from rpc.messages import FlushRequestMessage, FlushResponseMessage, FlushResult

LOOK_EVERY_MS = 100
WAIT_MS_MAX = 120_000
PATHS_MAX = 1000


async def serve(message: FlushRequestMessage, parent_id: int, house: House) -> FlushResponseMessage:
    """Ask a worker and wait for the tables. The answer is always a flush_response, also when it failed."""
    begun_ms, run = house.now_ms(), house.intake.run
    try:
        before = await run(lambda: _newest_flush(parent_id))
        goal = await run(lambda: backlog.horizon(parent_id))
        house.alarms.ask(parent_id, FlushTrigger.MANUAL)
        async with asyncio.timeout(WAIT_MS_MAX / 1000):
            while not await run(lambda: backlog.is_reached(goal)):
                await asyncio.sleep(LOOK_EVERY_MS / 1000)
        duration_ms = house.now_ms() - begun_ms
        result = await run(lambda: _result(parent_id, before, duration_ms))
    except TimeoutError:
        result = _failed(
            f"not in the table after {WAIT_MS_MAX} ms; the entries are durable and go in with the next flush. "
            "Is a worker running? Look at the output of `evodb up`"
        )
    except DatabaseError:
        result = _failed("the journal is not available")
    return _response(message, result, house.now_ms())


def busy(message: FlushRequestMessage, *, now_ms: int) -> FlushResponseMessage:
    """The answer to a second request while the first one runs."""
    return _response(message, _failed("a flush asked for by this connection is running already"), now_ms)


def _newest_flush(parent_id: int) -> int:
    newest: int | None = Flush.objects.filter(parent=parent_id).aggregate(newest=Max("pk"))["newest"]
    return newest or 0


def _result(parent_id: int, flush_id_before: int, duration_ms: int) -> FlushResult:
    """What the flushes since then have done."""
    done = Flush.objects.filter(parent=parent_id, pk__gt=flush_id_before, state=FlushState.COMMITTED)
    sums = done.aggregate(batches=Sum("batches"), entries=Sum("entries"), size_bytes=Sum("size_bytes"))
    paths = FlushTable.objects.filter(flush__in=done).order_by("pk").values_list("metadata_location", flat=True)
    return FlushResult(
        success=True,
        batches_flushed=sums["batches"] or 0,
        entries_flushed=sums["entries"] or 0,
        bytes_written=sums["size_bytes"] or 0,
        paths=list(paths[:PATHS_MAX]),
        duration_ms=duration_ms,
    )


def _failed(error: str) -> FlushResult:
    return FlushResult(success=False, error=error)


def _response(message: FlushRequestMessage, result: FlushResult, now_ms: int) -> FlushResponseMessage:
    return FlushResponseMessage(timestamp=now_ms, correlation_id=message.correlation_id, result=result)
