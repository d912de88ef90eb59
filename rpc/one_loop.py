"""The event loop a client lives in. Its locks and futures are of that loop, and in another nobody would ever wake."""

from __future__ import annotations

import asyncio


class OneLoop:
    """The loop of the first call, and after its end that of the next one."""

    def __init__(self, child_id: str) -> None:
        self._child_id = child_id
        self._loop: asyncio.AbstractEventLoop | None = None

    def enter(self) -> bool:
        """Whether this is another loop, and the one before has ended. Raises RuntimeError when it has not."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return False
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError(
                f"the client of child {self._child_id!r} is at work in another event loop; make one in each loop, or "
                "one by create_sync_rpc_client for all threads"
            )
        former, self._loop = self._loop, loop
        return former is not None
