"""What Pushpin costs: memory of the parent per sleeping child, and time per batch.

Question: what does a child cost the parent while it sleeps, behind Pushpin and without it, and how long does a batch of
one entry take until its ack, on SQLite, from one child that waits for each and from eight that do not?

Method: daphne, Pushpin and zurl as examples/pushpin starts them. SOCKETS children connect, say who they are, and are
silent until all of them sleep; then as many again, and memory is what the processes hold more than before. Then BATCHES
batches, one after the other, median and 99 of 100.

Last answer (November 2026, 2 cores of a virtual machine that also ran Pushpin and the children, CPython 3.11, pushpin
1.36.0, twice 2000 sockets). What the parent has more for a child that sleeps in Pushpin is its allocator's: it keeps
nothing of it, and other runs found 0.00.

                            KiB of      KiB of     ms a batch,    ms, 1 of 100    batches/s of
                          the parent   Pushpin       median        longer than     8 children
      direct                 7.43         0.00         1.11             2.35         11 989
      through /awake/ws      7.84        85.71         8.87           132.22            226
      asleep in Pushpin      0.26        28.94         6.78            23.25            296

    .venv/bin/python -m benchmarks.pushpin
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from websockets.asyncio.client import ClientConnection, connect

from rpc import batch, columns
from rpc.batch import Encoding
from rpc.entries import RawEntry
from rpc.messages import ConnectMessage
from rpc.protocol import encode_message
from tests.acceptance import pushpin
from tests.acceptance.processes import House, until
from tests.acceptance.pushpin import KEY, Pushpin
from tests.services import free_port

SOCKETS = int(os.environ.get("SOCKETS", "2000"))
BATCHES = int(os.environ.get("BATCHES", "1000"))
CHILDREN = 8
OPENED_AT_ONCE = 20
SILENCE_S = 5
BEGUN_MS = 1_700_000_000_000
DOCUMENT = b'{"id":1,"item":"tea","total":4.5,"at":"2026-11-21T10:00:00Z","note":"' + b"x" * 100 + b'"}'


async def main() -> None:
    settings = {"open": True, "grip": True, "grip_key": KEY, "up_port": free_port(), "hibernate_after_ms": 1000}
    limits = {"connections_per_second": 100_000, "messages_per_second": 100_000, "burst_capacity": 10_000}
    with tempfile.TemporaryDirectory() as folder, House(Path(folder), **settings, **limits) as house:
        house.prepare(flush_threshold_ms=3_600_000, flush_interval_ms=3_600_000)
        with pushpin.running(house.settings.up_port) as front:
            for name, url in (("direct", house.url), ("awake", front.awake_url), ("asleep", front.url)):
                house.daphne.start()
                until(lambda: pushpin.listens(house.settings.up_port), "daphne listens", house.daphne)
                await measure(name, url, house, front)
                house.daphne.kill()


async def measure(name: str, url: str, house: House, front: Pushpin) -> None:
    one = await child(url, f"{name}-warm")
    for sequence in range(1, 50):
        await ask(one, frame(sequence, f"{name}-warm"))
    rss = psutil.Process(house.daphne.pid).memory_info
    sockets = await several(url, f"{name}-first")
    before, held_before = rss().rss, front.memory_bytes()
    sockets += await several(url, f"{name}-second")
    kib = (rss().rss - before) / 1024 / SOCKETS
    held_kib = (front.memory_bytes() - held_before) / 1024 / SOCKETS
    cpu = await asyncio.gather(busy([psutil.Process(house.daphne.pid)], 10), busy(front.processes(), 10))
    print(f"{name}: {kib:.2f} KiB of the parent and {held_kib:.2f} KiB of Pushpin per sleeping child; ", end="")
    print(f"{len(sockets)} of them take {cpu[0]:.1%} of a core of the parent, {cpu[1]:.1%} of Pushpin")
    await one_by_one(name, one)
    await at_once(f"{name}-first", sockets[:CHILDREN])
    await asyncio.gather(*(socket.close() for socket in [one, *sockets]))


async def one_by_one(name: str, socket: ClientConnection) -> None:
    taken_ms = []
    for sequence in range(100, 100 + BATCHES):
        begun = time.perf_counter()
        await ask(socket, frame(sequence, f"{name}-warm"))
        taken_ms.append((time.perf_counter() - begun) * 1000)
    p50, p99 = statistics.median(taken_ms), statistics.quantiles(taken_ms, n=100)[98]
    print(f"{name}: a batch takes {p50:.2f} ms, 1 of 100 longer than {p99:.2f} ms")


async def at_once(name: str, sockets: list[ClientConnection]) -> None:
    async def stream(number: int, socket: ClientConnection) -> None:
        source = f"{name}-{number}"
        frames = [frame(sequence, source) for sequence in range(1, BATCHES + 1)]
        sending = asyncio.create_task(send_all(socket, frames))
        for _ in frames:
            await socket.recv()
        await sending

    begun = time.perf_counter()
    await asyncio.gather(*(stream(number, socket) for number, socket in enumerate(sockets)))
    print(f"{name}: {len(sockets) * BATCHES / (time.perf_counter() - begun):.0f} batches/s of {len(sockets)} children")


async def send_all(socket: ClientConnection, frames: list[bytes]) -> None:
    for frame in frames:
        await socket.send(frame)


async def several(url: str, name: str) -> list[ClientConnection]:
    """SOCKETS children that said who they are, a while ago."""
    sockets: list[ClientConnection] = []
    for first in range(0, SOCKETS, OPENED_AT_ONCE):
        numbers = range(first, min(first + OPENED_AT_ONCE, SOCKETS))
        sockets += await asyncio.gather(*(child(url, f"{name}-{number}") for number in numbers))
    await asyncio.sleep(SILENCE_S)
    return sockets


async def child(url: str, name: str) -> ClientConnection:
    socket = await connect(url, ping_interval=None, compression=None, open_timeout=60)
    await ask(socket, str(encode_message(ConnectMessage(timestamp=BEGUN_MS, source_do_id=name, epoch=1))))
    return socket


def frame(sequence: int, source: str) -> bytes:
    entry = RawEntry(sequence, BEGUN_MS, 0, b"orders", b"r%d" % sequence, b"", DOCUMENT)
    return batch.encode(
        columns.encode([entry]),
        encoding=Encoding.COLUMNS,
        entry_count=1,
        source=source,
        sequence=sequence,
        timestamp_ms=BEGUN_MS,
    )


async def ask(socket: ClientConnection, frame: str | bytes) -> None:
    await socket.send(frame)
    while await socket.recv() == "pong":
        pass


async def busy(processes: list[psutil.Process], seconds: float) -> float:
    def spent() -> float:
        return sum(sum(one.cpu_times()[:2]) for one in processes)

    before = spent()
    await asyncio.sleep(seconds)
    return (spent() - before) / seconds


if __name__ == "__main__":
    asyncio.run(main())
