"""A child asks for a flush and hears when everything that was durable by then is in its tables."""

from __future__ import annotations

import asyncio

from lakehouse.parent.flush_watch import failed
from lakehouse.parent.house import House
from rpc.messages import FlushRequestMessage, FlushResponseMessage, FlushResult

WAIT_MS_MAX = 120_000


async def serve(message: FlushRequestMessage, parent_id: int, house: House) -> FlushResponseMessage:
    """Ask a worker and wait for the tables. The answer is always a flush_response, also when it failed."""
    try:
        async with asyncio.timeout(WAIT_MS_MAX / 1000):
            result = await house.flush_watch.flushed(parent_id)
    except TimeoutError:
        result = failed(
            f"not in the table after {WAIT_MS_MAX} ms; the entries are durable and go in with the next flush. "
            "Is a worker running? Look at the output of `evodb up`"
        )
    return _response(message, result, house.now_ms())


def busy(message: FlushRequestMessage, *, now_ms: int) -> FlushResponseMessage:
    """The answer to a second request while the first one runs."""
    return _response(message, failed("a flush asked for by this connection is running already"), now_ms)


def _response(message: FlushRequestMessage, result: FlushResult, now_ms: int) -> FlushResponseMessage:
    return FlushResponseMessage(timestamp=now_ms, correlation_id=message.correlation_id, result=result)
