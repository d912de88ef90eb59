"""POST /flush: a worker is asked, and the answer waits for the tables, for a while."""

from __future__ import annotations

import asyncio
from collections import Counter
from weakref import WeakKeyDictionary

from lakehouse.journal.intake import Intake
from lakehouse.parent import flush_requests
from lakehouse.parent.house import House
from rpc.messages import FlushRequestMessage, FlushResult

WAIT_MS_MAX = 50_000
"""Below the minute after which most proxies give up."""
WAITING_MAX = 8
"""Requests of one process that wait at once; each holds a connection of somebody's proxy."""
REQUESTED_BY = "http"


async def flush(house: House, parent_id: int | None) -> FlushResult:
    """A parent nobody named yet has nothing to flush."""
    if parent_id is None:
        return FlushResult(success=True)
    waiting = _waiting.setdefault(house.intake, Counter())
    if waiting.total() >= WAITING_MAX:
        return FlushResult(success=False, error=f"{WAITING_MAX} requests wait for a flush already; come back later")
    message = FlushRequestMessage(timestamp=house.now_ms(), source_do_id=REQUESTED_BY)
    waiting[parent_id] += 1
    try:
        async with asyncio.timeout(WAIT_MS_MAX / 1000):
            return (await flush_requests.serve(message, parent_id, house)).result
    except TimeoutError:
        text = f"not in the table after {WAIT_MS_MAX} ms; is a worker running? It stays durable and will be"
        return FlushResult(success=False, error=text)
    finally:
        waiting[parent_id] -= 1


_waiting: WeakKeyDictionary[Intake, Counter[int]] = WeakKeyDictionary()
