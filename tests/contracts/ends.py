"""Both ends of a delivery as the rules see them: a raw socket, our client, and a parent that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from rpc.batch import BatchFrame
from rpc.client import LakehouseRpcClient
from rpc.config import ChildConfig
from rpc.messages import (
    AckDetails,
    AckMessage,
    AckStatus,
    AnyRpcMessage,
    BufferStats,
    ConnectMessage,
    ParentState,
    StatusMessage,
)
from rpc.protocol import decode_message, encode_message, read
from tests.builders import NOW_MS

CONFIG = ChildConfig(
    max_batch_size=2,
    batch_timeout_ms=10,
    ack_timeout_ms=200,
    initial_retry_delay_ms=10,
    max_retry_delay_ms=20,
    max_reconnect_attempts=0,
)
PATIENCE_S = 20


def hello(epoch: int | None = 5) -> str:
    fields = {} if epoch is None else {"epoch": epoch}
    return str(encode_message(ConnectMessage(timestamp=NOW_MS, source_do_id="shop-1", **fields)))


async def ask(socket: ClientConnection, frame: str | bytes) -> AnyRpcMessage:
    await socket.send(frame)
    async with asyncio.timeout(PATIENCE_S):
        return decode_message(await socket.recv())


@contextlib.asynccontextmanager
async def child(url: str, *, epoch: int | None = 5, **options: Any) -> AsyncIterator[ClientConnection]:
    """A socket that has said hello."""
    async with connect(url, compression=None, **options) as socket:
        await ask(socket, hello(epoch))
        yield socket


@contextlib.asynccontextmanager
async def client(url: str, folder: Path, **config: Any) -> AsyncIterator[LakehouseRpcClient]:
    """Ours, with the outbox of this folder; not connected yet."""
    ours = LakehouseRpcClient(
        url, "shop-1", outbox=folder / "outbox.sqlite3", config=dataclasses.replace(CONFIG, **config)
    )
    try:
        yield ours
    finally:
        await ours.disconnect(timeout_ms=100)
        await ours.close()


def rows(first: int, last: int) -> list[dict[str, Any]]:
    return [{"op": "INSERT", "table": "orders", "data": {"id": number}} for number in range(first, last + 1)]


class Scripted:
    """A parent that remembers every frame, and of each batch does what the script says."""

    def __init__(self, script: Callable[[BatchFrame, int], AckStatus | None], *, resume: int = 0) -> None:
        self.batches: list[BatchFrame] = []
        self.connections = 0
        self._script, self._resume = script, resume

    async def serve(self, socket: ServerConnection) -> None:
        self.connections += 1
        async for frame in socket:
            message = read(frame)
            if isinstance(message, ConnectMessage):
                await socket.send(self.status())
            elif isinstance(message, BatchFrame):
                self.batches.append(message)
                status = self._script(message, len(self.batches))
                if status is not None:
                    await socket.send(str(encode_message(ack(message, status), binary=False)))

    def status(self) -> str:
        empty = BufferStats(batch_count=0, entry_count=0, total_size_bytes=0, utilization=0.0)
        message = StatusMessage(
            timestamp=1,
            state=ParentState.IDLE,
            buffer=empty,
            connected_children=1,
            resume_sequence=self._resume,
            highest_sequence=self._resume,
        )
        return str(encode_message(message))


def ack(frame: BatchFrame, status: AckStatus) -> AckMessage:
    details = AckDetails(entries_processed=frame.entries, buffer_utilization=0.0)
    return AckMessage(timestamp=1, sequence_number=frame.sequence, status=status, details=details)


@contextlib.asynccontextmanager
async def scripted(parent: Scripted) -> AsyncIterator[str]:
    async with serve(parent.serve, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.005)
