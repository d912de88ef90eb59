"""The clients that were here before us, as small as they can be and with their habits.

They know nothing of this code: bytes and JSON are built as their documents show them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
import time
import uuid
from typing import Any, Self
from zlib import crc32

from websockets.asyncio.client import ClientConnection, connect

HEADER = struct.Struct("<HBBB3xQQHIIHI")
ENTRY = struct.Struct("<QQBHHII")
OPERATIONS = {"INSERT": 0, "UPDATE": 1, "DELETE": 2}
CORRELATION, RETRY = 0x02, 0x04
CRC_AT = 36

Entry = dict[str, Any]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def change(sequence: int, *, operation: str = "INSERT", **row: Any) -> Entry:
    return {
        "sequence": sequence,
        "timestamp": 1_700_000_000_000 + sequence,
        "operation": operation,
        "table": "orders",
        "rowId": f"r{sequence}",
        "after": {"id": sequence, **row},
    }


class PackageClient:
    """@evodb/rpc: binary batches, sequences from 1 in every process, acks known by correlation id alone.

    It sends no Origin and no X-Client-ID, offers permessage-deflate (as websockets does by itself), and does not wait
    for `status`. A retry is the same entries under a new sequence.
    """

    def __init__(self, url: str, child: str) -> None:
        self._url, self._child = url, child
        self._sequences = itertools.count(1)
        self._last_crc = 0
        self.sent: list[bytes] = []
        self.socket: ClientConnection

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()

    async def connect(self) -> None:
        self.socket = await connect(self._url, ping_interval=None)
        hello = {
            "type": "connect",
            "timestamp": now_ms(),
            "sourceDoId": self._child,
            "lastAckSequence": 0,
            "protocolVersion": 1,
            "capabilities": {
                "binaryProtocol": True,
                "compression": False,
                "batching": True,
                "maxBatchSize": 1000,
                "maxMessageSize": 4 * 1024 * 1024,
            },
        }
        await self.socket.send(json.dumps(hello))

    async def send_batch(self, entries: list[Entry], *, is_retry: bool = False) -> dict[str, Any]:
        """Send and return the answer that carries the batch's correlation id."""
        sequence, correlation_id = next(self._sequences), str(uuid.uuid4())
        self.sent.append(self.encode(sequence, correlation_id, entries, is_retry=is_retry))
        await self.socket.send(self.sent[-1])
        return await self._answered(correlation_id)

    def encode(self, sequence: int, correlation_id: str, entries: list[Entry], *, is_retry: bool = False) -> bytes:
        """The buffer is used again and still has the last message's crc in it when the next one is counted."""
        payload = struct.pack("<I", len(entries)) + b"".join(map(_entry, entries))
        source, correlation = self._child.encode(), correlation_id.encode()
        flags = CORRELATION | (RETRY if is_retry else 0)
        lengths = (len(source), len(entries), len(payload), len(correlation))
        header = HEADER.pack(0xCDC2, 1, 1, flags, now_ms(), sequence, *lengths, self._last_crc)
        message = bytearray(header + source + correlation + payload)
        self._last_crc = crc32(message)
        struct.pack_into("<I", message, CRC_AT, self._last_crc)
        return bytes(message)

    async def _answered(self, correlation_id: str) -> dict[str, Any]:
        while True:
            answer: dict[str, Any] = json.loads(await self.socket.recv())
            if answer.get("correlationId") == correlation_id:
                return answer


class DosqlClient:
    """The integration guide's DoSQL: JSON with `events`, batches from 0, acks known by sequence number.

    Its batch counter survives a restart, its event counter does not, and a retry forgets the shard's name.
    """

    def __init__(self, url: str, child: str, shard: str, *, batch_sequence: int = 0) -> None:
        self._url, self._child, self._shard = url, child, shard
        self.batch_sequence = batch_sequence
        self.event_sequence = 0
        self.told: list[dict[str, Any]] = []
        """What is no answer to a batch."""
        self._last_ack = 0
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        headers = {"X-Client-ID": self._child, "X-Shard-Name": self._shard}
        self._socket = await connect(self._url, additional_headers=headers, ping_interval=None)
        self._listening = asyncio.create_task(self._listen())
        capabilities = {
            "binaryProtocol": False,
            "compression": False,
            "batching": True,
            "maxBatchSize": 1000,
            "maxMessageSize": 4 * 1024 * 1024,
        }
        await self._say(
            "connect",
            sourceShardName=self._shard,
            lastAckSequence=self._last_ack,
            protocolVersion=1,
            capabilities=capabilities,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close(1000, "Graceful shutdown")
        await self._listening

    def capture(self, operation: str, row: dict[str, Any]) -> Entry:
        event = change(self.event_sequence, operation=operation, **row) | {"timestamp": now_ms()}
        self.event_sequence += 1
        return event

    async def send_batch(self, events: list[Entry]) -> dict[str, Any]:
        sequence, self.batch_sequence = self.batch_sequence, self.batch_sequence + 1
        return await self._send(events, sequence, retry_count=0, sourceShardName=self._shard)

    async def send_again(self, events: list[Entry], sequence: int) -> dict[str, Any]:
        return await self._send(events, sequence, retry_count=1)

    async def heartbeat(self) -> None:
        await self._say("heartbeat", lastAckSequence=self._last_ack, pendingEvents=0)

    async def _send(self, events: list[Entry], sequence: int, *, retry_count: int, **more: Any) -> dict[str, Any]:
        answered = self._pending[sequence] = asyncio.get_running_loop().create_future()
        await self._say(
            "cdc_batch",
            correlationId=str(uuid.uuid4()),
            events=events,
            sequenceNumber=sequence,
            firstEventSequence=events[0]["sequence"],
            lastEventSequence=events[-1]["sequence"],
            sizeBytes=len(json.dumps(events)),
            isRetry=retry_count > 0,
            retryCount=retry_count,
            **more,
        )
        return await answered

    async def _say(self, kind: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, "timestamp": now_ms(), "sourceDoId": self._child, **fields}))

    async def _listen(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if message["type"] in ("ack", "nack"):
                self._pending.pop(message["sequenceNumber"]).set_result(message)
                if message["type"] == "ack":
                    self._last_ack = message["sequenceNumber"]
            else:
                self.told.append(message)


def _entry(entry: Entry) -> bytes:
    texts = [entry["table"].encode(), entry["rowId"].encode(), _json(entry, "before"), _json(entry, "after")]
    operation = OPERATIONS[entry["operation"]]
    return ENTRY.pack(entry["sequence"], entry["timestamp"], operation, *map(len, texts)) + b"".join(texts)


def _json(entry: Entry, name: str) -> bytes:
    return json.dumps(entry[name], separators=(",", ":")).encode() if name in entry else b""
