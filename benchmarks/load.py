"""A load of children in a process of its own: frames made beforehand, a window of unanswered batches per connection.

Prints one JSON line: batches, entries, seconds from the first frame to the last ack.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

import websockets

from rpc import batch, columns
from rpc.batch import Encoding
from rpc.entries import RawEntry
from rpc.messages import ConnectMessage
from rpc.protocol import encode_message

NOW_MS = time.time_ns() // 1_000_000


def document(number: int, chance: random.Random) -> bytes:
    """180 bytes of an order, as an app would write it."""
    return json.dumps(
        {
            "id": number,
            "customer": f"c-{chance.randrange(10_000)}",
            "status": chance.choice(["new", "paid", "sent", "closed"]),
            "items": chance.randrange(1, 20),
            "total": round(chance.random() * 500, 2),
            "paid": chance.random() < 0.5,
            "created_at": f"2026-11-{chance.randrange(1, 29):02}T10:{chance.randrange(60):02}:00Z",
            "note": "x" * chance.randrange(40),
        }
    ).encode()


def frames(name: str, *, batches: int, entries: int) -> list[bytes]:
    """The frames of one child. Documents repeat; sequences do not."""
    chance = random.Random(name)
    documents = [document(number, chance) for number in range(2000)]
    made = []
    for sequence in range(1, batches + 1):
        first = (sequence - 1) * entries
        content = [
            RawEntry(first + n, NOW_MS, 0, b"orders", b"%d" % (first + n), b"", documents[(first + n) % len(documents)])
            for n in range(entries)
        ]
        made.append(
            batch.encode(
                columns.encode(content),
                encoding=Encoding.COLUMNS,
                entry_count=entries,
                source=name,
                sequence=sequence,
                timestamp_ms=NOW_MS,
                strict_crc=True,
            )
        )
    return made


class Child:
    """One connection: sends its frames within the window, again when the parent has no room."""

    def __init__(self, name: str, made: list[bytes], window: int) -> None:
        self.name, self.made, self.room = name, made, asyncio.Semaphore(window)
        self.left, self.refused = len(made), 0
        self.is_known = asyncio.Event()

    async def run(self, url: str, start: asyncio.Event) -> None:
        async with websockets.connect(url, compression=None, max_size=2**24, ping_interval=None) as socket:
            hello = ConnectMessage(timestamp=NOW_MS, source_do_id=self.name, epoch=NOW_MS)
            await socket.send(encode_message(hello))
            await socket.recv()
            self.is_known.set()
            await start.wait()
            reader = asyncio.create_task(self._read(socket))
            for frame in self.made:
                await self.room.acquire()
                await socket.send(frame)
            await reader

    async def _read(self, socket: websockets.ClientConnection) -> None:
        while self.left:
            answer = json.loads(await socket.recv())
            if answer["type"] == "ack":
                self.left -= 1
                self.room.release()
            else:
                assert answer["shouldRetry"], answer
                self.refused += 1
                await asyncio.sleep(answer["retryDelayMs"] / 1000)
                await socket.send(self.made[answer["sequenceNumber"] - 1])


async def main(url: str, name: str, connections: int, batches: int, entries: int, window: int) -> None:
    share = batches // connections
    names = [f"{name}-{number}" for number in range(connections)]
    children = [Child(name, frames(name, batches=share, entries=entries), window) for name in names]
    start = asyncio.Event()
    tasks = [asyncio.create_task(child.run(url, start)) for child in children]
    await asyncio.gather(*(child.is_known.wait() for child in children))
    begun = time.perf_counter()
    start.set()
    await asyncio.gather(*tasks)
    seconds = time.perf_counter() - begun
    sent = share * connections
    print(
        json.dumps(
            {
                "batches": sent,
                "entries": sent * entries,
                "seconds": seconds,
                "begun_ms": time.time() * 1000 - seconds * 1000,
                "refused": sum(child.refused for child in children),
                "bytes": sum(len(frame) for child in children for frame in child.made),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3], *map(int, sys.argv[3:])))
