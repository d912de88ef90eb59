"""Many edge applications in one process: each with an outbox of its own, all writing and sending at once.

    python crowd_program.py FOLDER URL FIRST COUNT ENTRIES

What child number c writes is `row(c, n)` for n from 1 to ENTRIES, in this order; so everybody knows what has to be in
the lake. Returns 0 when all of it is acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from typing import Any

from rpc.client import LakehouseRpcClient
from rpc.config import ChildConfig

CONFIG = ChildConfig(
    max_batch_size=50,
    batch_timeout_ms=50,
    initial_retry_delay_ms=50,
    max_retry_delay_ms=500,
    max_reconnect_attempts=0,
)
AT_ONCE_MAX = 40
PAUSE_S_MAX = 0.4
"""Between two writes of a child, so that it is not done with before the parent has heard of it."""


def name_of(child: int) -> str:
    return f"shop-{child:03}"


def row(child: int, number: int) -> dict[str, Any]:
    return {"id": number, "shop": name_of(child), "total": number / 4, "note": f"{child} has {number} ✓"}


async def live(folder: Path, url: str, child: int, entries: int) -> None:
    dice, written = random.Random(child), 0
    client = LakehouseRpcClient(url, name_of(child), outbox=folder / f"{name_of(child)}.outbox", config=CONFIG)
    connecting = asyncio.create_task(client.connect())
    while written < entries:
        numbers = range(written + 1, min(written + dice.randint(1, AT_ONCE_MAX), entries) + 1)
        written += await client.send_many(
            [{"op": "INSERT", "table": "orders", "data": row(child, number)} for number in numbers]
        )
        await asyncio.sleep(dice.random() * PAUSE_S_MAX)
    await connecting
    await client.drain()
    assert client.outbox.dead_letters() == []
    await client.close()


async def crowd(folder: str, url: str, first: str, count: str, entries: str) -> None:
    async with asyncio.TaskGroup() as group:
        for child in range(int(first), int(first) + int(count)):
            group.create_task(live(Path(folder), url, child, int(entries)))


if __name__ == "__main__":
    asyncio.run(crowd(*sys.argv[1:]))
