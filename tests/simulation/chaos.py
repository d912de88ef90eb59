"""A wire that loses, doubles, delays and cuts, between a real child and a real parent.

The same seed tells the same story, as far as two real sides allow.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, WebSocketException


@dataclass
class Chaos:
    """What happens to a message, as chances; all 0 is a wire that works."""

    seed: int
    lose: float = 0.05
    double: float = 0.05
    delay: float = 0.1
    cut: float = 0.02
    delay_ms_max: int = 20
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def heal(self) -> None:
        self.lose = self.double = self.delay = self.cut = 0.0

    def _hits(self, what: str) -> bool:
        hit = self.random.random() < getattr(self, what)
        self.happened[what] += hit
        return hit

    async def carry(self, source: ServerConnection, target: ServerConnection) -> None:
        """Every message from one end to the other, or not."""
        async for message in source:
            if self._hits("cut"):
                source.transport.abort()
                target.transport.abort()
                return
            if self._hits("lose"):
                continue
            if self._hits("delay"):
                await asyncio.sleep(self.random.random() * self.delay_ms_max / 1000)
            await target.send(message)
            if self._hits("double"):
                await target.send(message)


@contextlib.asynccontextmanager
async def wire(url: str, chaos: Chaos) -> AsyncIterator[str]:
    """A wire to the parent at `url`; gives the address of the child's end."""

    async def bridge(child: ServerConnection) -> None:
        with contextlib.suppress(OSError, WebSocketException):
            async with connect(url, compression=None, max_size=None, ping_interval=None, close_timeout=1) as parent:
                both = [asyncio.create_task(chaos.carry(*ends)) for ends in ((child, parent), (parent, child))]
                with contextlib.suppress(ConnectionClosed):
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)

    async with serve(
        bridge, "127.0.0.1", 0, compression=None, max_size=None, ping_interval=None, close_timeout=0.1
    ) as s:
        yield f"ws://127.0.0.1:{s.sockets[0].getsockname()[1]}/ws"
