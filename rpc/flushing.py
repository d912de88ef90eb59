"""A flush a child asks for and waits for: one after the other, since a parent does one at a time for a connection."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

from websockets.exceptions import ConnectionClosed

from rpc.awaited import Awaited
from rpc.errors import ConnectionError, FlushError
from rpc.link import Link
from rpc.messages import FlushResult


async def flush(awaited: Awaited, connected: Callable[[], Awaitable[Link]]) -> FlushResult:
    """Raises FlushError when the parent could not, ConnectionError when the connection ends before it says so."""
    async with awaited.asking:
        result = await _answered(awaited, await connected())
    if not result.success:
        raise FlushError(result.error or "", used_fallback=result.used_fallback)
    return result


async def _answered(awaited: Awaited, link: Link) -> FlushResult:
    correlation_id = uuid.uuid4().hex
    answer = awaited.flush(correlation_id)
    try:
        await link.request_flush(correlation_id)
        return await answer
    except ConnectionClosed as exc:
        raise ConnectionError(f"the connection closed: {exc}") from exc
    finally:
        answer.cancel()  # nobody hears an error any more that comes now
