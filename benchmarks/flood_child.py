"""A child that has more to say than its parent's lake can take: documents that nothing compresses, as fast as it may.

    python -m benchmarks.flood_child URL NAME FOLDER DOCUMENTS

Prints one JSON line at the end: what the client counted, and how often it was seen holding back.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from pathlib import Path

from rpc.client import LakehouseRpcClient
from rpc.config import ChildConfig
from rpc.outbox import Outbox

DOCUMENT_BYTES = 10_000
CALL = 50
CONFIG = ChildConfig(outbox_when_full="wait", outbox_bytes_max=64 * 2**20, max_batch_size=100, max_reconnect_attempts=0)


def document(number: int) -> dict[str, object]:
    noise = base64.b85encode(os.urandom(DOCUMENT_BYTES * 4 // 5)).decode()
    return {"table": "noise", "operation": "INSERT", "row_id": str(number), "after": {"id": number, "noise": noise}}


async def send(url: str, name: str, folder: str, documents: int) -> None:
    held_back = 0
    with Outbox(Path(folder, f"{name}.outbox")) as outbox:
        async with LakehouseRpcClient(url, name, outbox=outbox, config=CONFIG) as client:
            for first in range(0, documents, CALL):
                await client.send_many([document(number) for number in range(first, min(first + CALL, documents))])
                held_back += client.get_stats().is_paused
            await client.drain()
            stats = client.get_stats()
    told = {"acked": stats.acked_batches, "sent": stats.messages_sent, "paused": held_back, "error": stats.error}
    print(json.dumps(told | {"dropped": stats.dropped_entries, "refused": stats.refused_batches}), flush=True)


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
