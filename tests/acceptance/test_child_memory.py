"""A parent was away for long: many entries wait on disk, and neither keeping nor sending them takes memory.

Measured on two cores: queueing a million takes 15 s and 37 MiB, sending them 6 s and 42 MiB; 34 MiB of these are Python
and imports. Both forms of this test allow 63 bytes for each entry beyond what a client takes anyway.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve

from tests.acceptance.processes import ROOT
from tests.repetition import LONG

ENTRIES = 1_000_000 if LONG else 200_000
PEAK_MIB_MAX = 40 + 60 * ENTRIES / 1_000_000
PATIENCE_S = 120
HEAD = struct.Struct("<16xQ2xI")
"""sequence and entries, of the header of a batch"""


STATUS = {
    "type": "status",
    "timestamp": 1,
    "state": "idle",
    "buffer": {"batchCount": 0, "entryCount": 0, "totalSizeBytes": 0, "utilization": 0},
    "connectedChildren": 1,
    "resumeSequence": 0,
}
ACK = {"type": "ack", "timestamp": 1, "status": "ok"}


class Acking:
    """A parent that takes everything and keeps nothing."""

    def __init__(self) -> None:
        self.entries = 0

    async def serve(self, socket: ServerConnection) -> None:
        async for frame in socket:
            if isinstance(frame, bytes):
                sequence, entries = HEAD.unpack_from(frame)
                self.entries += entries
                await socket.send(json.dumps(ACK | {"sequenceNumber": sequence}))
            elif json.loads(frame)["type"] == "connect":
                await socket.send(json.dumps(STATUS))


@asynccontextmanager
async def acking(parent: Acking) -> AsyncIterator[str]:
    async with serve(parent.serve, "127.0.0.1", 0, compression=None, max_size=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"


async def peak_mib(*arguments: str) -> float:
    """Of a fresh program that does this."""
    program = str(ROOT / "tests/acceptance/backlog_program.py")
    process = await asyncio.create_subprocess_exec(sys.executable, program, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return float(said.split()[-1])


async def test_a_backlog_is_kept_and_sent_in_little_memory(tmp_path: Path) -> None:
    outbox, parent = str(tmp_path / "outbox.sqlite3"), Acking()
    assert await peak_mib("queue", outbox, str(ENTRIES)) < PEAK_MIB_MAX
    async with acking(parent) as url:
        assert await peak_mib("drain", outbox, url) < PEAK_MIB_MAX
    assert parent.entries == ENTRIES
