"""A child with a backlog: `queue` writes it while there is no parent, `drain` sends it; each prints its peak memory.

    python backlog_program.py queue OUTBOX ENTRIES
    python backlog_program.py drain OUTBOX URL

The last line is the peak in MiB of this program alone: /proc/self/status, since ru_maxrss begins with what the program
had that started this one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from rpc.client import LakehouseRpcClient
from rpc.config import ChildConfig

AT_ONCE = 1000
CONFIG = ChildConfig(max_reconnect_attempts=0, initial_retry_delay_ms=50)


def peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def queue(outbox: str, entries: int) -> None:
    client = LakehouseRpcClient("ws://127.0.0.1:9/ws", "shop-1", outbox=outbox, config=CONFIG)
    for first in range(0, entries, AT_ONCE):
        await client.send_many(
            {"op": "UPDATE", "table": "orders", "data": {"id": number, "customer": "Ann Öz", "total": number / 4}}
            for number in range(first, first + AT_ONCE)
        )
    assert client.outbox.pending_entries == entries
    await client.close()


async def drain(outbox: str, url: str) -> None:
    client = LakehouseRpcClient(url, "shop-1", outbox=outbox, config=CONFIG)
    await client.connect()
    await client.drain()
    assert client.outbox.pending_entries == 0
    await client.close()


if __name__ == "__main__":
    what, path, where = sys.argv[1:]
    asyncio.run(queue(path, int(where)) if what == "queue" else drain(path, where))
    print(peak_mib())
