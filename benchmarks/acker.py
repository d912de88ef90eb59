"""A parent that acks every batch and keeps none, in a process of its own: what a child spends is then the child's.

It checks frames as the real one does, and prints the port it listens on.
"""

from __future__ import annotations

import asyncio
import time

import websockets
from msgspec import UNSET

from rpc.batch import BatchFrame
from rpc.messages import AckStatus, BufferStats, ConnectMessage, ParentState, StatusMessage
from rpc.protocol import encode_message
from rpc.session.parent import ParentSession, Step

EMPTY = BufferStats(batch_count=0, entry_count=0, total_size_bytes=0, utilization=0.0)


async def serve(socket: websockets.ServerConnection) -> None:
    session = ParentSession(source=None, window_batches_max=1000)
    async for frame in socket:
        answer = answer_to(session, session.receive(frame, now_ms=now_ms()))
        if answer is not None:
            await socket.send(answer)


def answer_to(session: ParentSession, step: Step) -> str | bytes | None:
    if isinstance(step, BatchFrame):
        return session.ack(step, AckStatus.OK, entries=step.entries, utilization=0.0, now_ms=now_ms())
    if isinstance(step, ConnectMessage):
        status = StatusMessage(
            timestamp=now_ms(),
            state=ParentState.RECEIVING,
            buffer=EMPTY,
            connected_children=1,
            resume_sequence=0 if step.epoch else UNSET,
            highest_sequence=0 if step.epoch else UNSET,
            **session.accepted._asdict(),
        )
        return encode_message(status)
    return step if isinstance(step, str | bytes) else None


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def main() -> None:
    async with websockets.serve(serve, "127.0.0.1", 0, compression=None, max_size=2**24) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
