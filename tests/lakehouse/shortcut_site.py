"""A site that serves what it hears at once, or later when it is asked to; run by a real daphne in test_shortcut."""

from __future__ import annotations

import asyncio
from typing import Any

from lakehouse.limits import handshake
from lakehouse.parent import ballast
from lakehouse.parent.outflow import Outflow
from lakehouse.parent.shortcut import LATER, shortcut
from lakehouse.parent.unfinished import Unfinished

UNFINISHED = Unfinished(bytes_max=150_000)

handshake.mend()
ballast.mend()


class Parrot:
    """Says every frame again, with how it came: at once, or through the queue."""

    def __init__(self, send: Any) -> None:
        self.shortcut = shortcut(send, self.hear, UNFINISHED)
        assert self.shortcut is not None
        assert shortcut(send, self.hear, UNFINISHED) is None, "a socket has one shortcut"
        self.outflow = Outflow(send, write=self.shortcut.write)

    def hear(self, frame: str | bytes) -> Any:
        if frame == "fail":
            raise RuntimeError("asked to fail")
        if frame == "wait":
            return self.wait()
        self.outflow.put(frame if isinstance(frame, bytes) else f"at once: {frame}")
        return None

    async def wait(self) -> None:
        await asyncio.sleep(0.05)
        self.outflow.put("waited")

    async def live(self) -> None:
        while (message := await self.shortcut.receive())["type"] != "websocket.disconnect":
            if message["type"] == LATER:
                await message["what"]
            else:
                frame = message.get("bytes") or "queued: " + message["text"]
                self.outflow.put(frame)


class Impatient:
    """daphne as a child meets it on /doubted: a fifth of a second is a long silence."""

    ping_interval = ping_timeout = 0.2

    def __init__(self, daphne: Any) -> None:
        self._daphne = daphne

    def __getattr__(self, name: str) -> Any:
        return getattr(self._daphne, name)


async def doubt(protocol: Any) -> None:
    """Look after this child as daphne does every two seconds."""
    protocol.server = Impatient(protocol.server)
    while True:
        protocol.check_timeouts()
        await asyncio.sleep(0.05)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    parrot = Parrot(send)
    doubting = asyncio.create_task(doubt(send.args[0])) if scope["path"] == "/doubted" else None
    try:
        await parrot.live()
    except RuntimeError:
        await parrot.outflow.drained()
        await send({"type": "websocket.close", "code": 1000})
    finally:
        parrot.shortcut.close()
        if doubting:
            doubting.cancel()
