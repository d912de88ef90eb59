"""Where receivers are by their names, asked by threads of their own, of which one tenant has a few at most.

A name server that is silent keeps a thread for as long as the system waits, and whoever asked may have gone by then. So
who has many such names keeps his own messages waiting and nobody else's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from weakref import WeakValueDictionary

from lakehouse.subscriptions import guard

THREADS_MAX = 64
OF_A_TENANT_MAX = 8

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def resolve(host: str, port: int) -> Sequence[str]:
    if guard.is_address(host):
        return [host]
    found = await asyncio.get_running_loop().run_in_executor(
        _threads(), lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    return list(dict.fromkeys(str(row[4][0]) for row in found))


class Names:
    """Of one event loop."""

    def __init__(self, resolve: Resolve = resolve) -> None:
        self._resolve = resolve
        self._turns: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()
        """Of tenants that ask now."""

    async def resolve(self, tenant: int, host: str, port: int) -> Sequence[str]:
        turn = self._turns.setdefault(tenant, asyncio.Semaphore(OF_A_TENANT_MAX))
        await turn.acquire()
        asking = asyncio.ensure_future(self._resolve(host, port))

        def end(asked: asyncio.Future[Sequence[str]]) -> None:
            turn.release()
            if not asked.cancelled():
                asked.exception()  # nobody may be there to hear it

        asking.add_done_callback(end)
        return await asyncio.shield(asking)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="evodb-names")
