"""What a child's process spends on its entries: a real client with its outbox on a disk, and a parent elsewhere.

`acker` answers in a process of its own. The outbox runs in threads, so the CPU time of a thread during a call of the
outbox is what that call cost; what no call of the outbox spent is the session, the socket and the event loop.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rpc.client import LakehouseRpcClient
from rpc.config import ChildConfig
from rpc.given import EntryLike, raw_entry
from rpc.outbox import Outbox

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = 100_000
STEPS = ("append", "cut", "unacked", "ack")
"""The calls of an outbox on an entry's way; `unacked` reads a cut batch back to send it."""
COLUMNS = ("whole", "bytes", "append", "cut", "unacked", "ack", "wire")


class Way(NamedTuple):
    """How a child sends."""

    name: str
    per_call: int
    config: ChildConfig
    entries: int = ENTRIES


WAYS = (
    Way("columns, 1000 a call", 1000, ChildConfig()),
    Way("columns, 100 a call", 100, ChildConfig()),
    Way("columns, 1 a call", 1, ChildConfig(), ENTRIES // 20),
    Way("columns and zstd, 1000 a call", 1000, ChildConfig(compression="zstd")),
    Way("msgpack, 1000 a call", 1000, ChildConfig(encoding="msgpack")),
    Way("Arrow, 1000 a call", 1000, ChildConfig(encoding="arrow")),
)


def report(given: list[EntryLike]) -> None:
    """Print ms of CPU per 100 000 entries for every way; `given` are at least 1000 entries, sent again and again."""
    print(f"{'':32}" + "".join(f"{name:>9}" for name in COLUMNS))
    with acker() as url:
        asyncio.run(spent(url, WAYS[0]._replace(entries=2000), given))  # opens libraries and thread pool
        for way in WAYS:
            found = asyncio.run(spent(url, way, given))
            figures = "".join(f"{found[name] * 1e3 * ENTRIES / way.entries:9.0f}" for name in COLUMNS)
            print(f"{way.name:32}{figures}", flush=True)


@contextmanager
def acker() -> Iterator[str]:
    """A parent that acks everything; gives its address."""
    command = [sys.executable, "-m", "benchmarks.acker"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    try:
        assert process.stdout is not None
        yield f"ws://127.0.0.1:{int(process.stdout.readline())}/ws"
    finally:
        process.kill()
        process.wait()


async def spent(url: str, way: Way, given: list[EntryLike]) -> Counter[str]:
    """CPU seconds of this process by step, from the first `send_many` to the last ack."""
    with tempfile.TemporaryDirectory(prefix="evodb-bench-") as folder, Outbox(Path(folder, "outbox")) as outbox:
        seconds: Counter[str] = Counter()
        for name in STEPS:
            setattr(outbox, name, timed(getattr(outbox, name), seconds, name))
        part = given[: way.per_call]
        async with LakehouseRpcClient(url, "shop-1", outbox=outbox, config=way.config) as client:
            begun = time.process_time()
            for _ in range(0, way.entries, len(part)):
                await client.send_many(part)
            await client.drain()
            seconds["whole"] = time.process_time() - begun
        assert client.get_stats().acked_batches >= way.entries / way.config.max_batch_size
    begun = time.process_time()
    for _ in range(0, way.entries, len(part)):
        [raw_entry(entry, now_ms=0) for entry in part]
    seconds["bytes"] = time.process_time() - begun
    seconds["wire"] = seconds["whole"] - seconds["bytes"] - sum(seconds[name] for name in STEPS)
    return seconds


def timed(call: Callable[..., Any], seconds: Counter[str], name: str) -> Callable[..., Any]:
    def measured(*args: Any, **options: Any) -> Any:
        begun = time.thread_time()
        try:
            return call(*args, **options)
        finally:
            seconds[name] += time.thread_time() - begun

    return measured
