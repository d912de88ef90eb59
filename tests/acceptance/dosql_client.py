"""DoSQL as the integration guide writes it, line by line, with its habits and its gaps; only its delays are shorter.

Batches are numbered from 0, and so are events. The number of the next batch is kept in storage and that of the next
event is not, so that it begins anew with every start. A batch that is sent again has no sourceShardName, another
correlationId and another time. Whoever waits for an answer is found by the number of the batch alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Event = dict[str, Any]
BATCH_SIZE = 100
ATTEMPTS_MAX = 5
ACK_TIMEOUT_S = 2.0  # 30 in the guide
RECONNECT_S = 0.2  # 5
HEARTBEAT_S = 0.5  # 30
SHUTDOWN_S = 1.0  # 5


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Retry:
    events: list[Event]
    number: int
    attempts: int = 1


@dataclass
class DoSQL:
    """One start of a Durable Object: `storage` is what the one before has left."""

    url: str
    id: str
    storage: dict[str, int] = field(default_factory=dict)
    ledger: list[Event] = field(default_factory=list)
    """Of the test: every change that was made."""
    heard: list[dict[str, Any]] = field(default_factory=list)
    dead_letters: list[Event] = field(default_factory=list)
    unsettled: set[int] = field(default_factory=set)
    """Of the test: batches that are neither acknowledged nor given up."""
    socket: ClientConnection | None = None
    _buffer: list[Event] = field(default_factory=list)
    _pending: dict[int, asyncio.Future[None]] = field(default_factory=dict)
    _retries: list[Retry] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.shard = f"shard-{self.id[:8]}"
        self._event_number = self.storage.get("cdc_sequence", 0)
        self._batch_number = self.storage.get("batch_sequence", 0)
        self._last_ack = self.storage.get("last_ack_sequence", 0)

    async def __aenter__(self) -> DoSQL:
        self._start(self._stay_connected())
        self._start(self._heartbeat())
        self._start(self._retry())
        while self.socket is None:
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        """As a crash does it: nothing is said."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.socket is not None:
            self.socket.transport.abort()

    @property
    def is_settled(self) -> bool:
        return not (self.unsettled or self._buffer)

    def insert(self, table: str, **row: Any) -> None:
        self._capture(operation="INSERT", table=table, rowId=row["id"], after=row)

    def update(self, table: str, before: dict[str, Any], **after: Any) -> None:
        self._capture(operation="UPDATE", table=table, rowId=before["id"], before=before, after=before | after)

    def delete(self, table: str, **before: Any) -> None:
        self._capture(operation="DELETE", table=table, rowId=before["id"], before=before)

    def flush(self) -> None:
        """Send what waits as a batch, if there is a connection."""
        if not self._buffer or self.socket is None:
            return
        events, self._buffer = self._buffer, []
        number, self._batch_number = self._batch_number, self._batch_number + 1
        self.storage["batch_sequence"] = self._batch_number
        self.unsettled.add(number)
        self._start(self._send(Retry(events, number, attempts=0), sourceShardName=self.shard))

    async def shutdown(self) -> None:
        self.flush()
        while self.unsettled:
            await asyncio.sleep(0.01)
        if self.socket is not None:
            await self._say("flush_request", reason="shutdown", correlationId=str(uuid.uuid4()))
            await asyncio.sleep(SHUTDOWN_S)
            await self.socket.close(1000, "Graceful shutdown")

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _capture(self, **event: Any) -> None:
        event = {"sequence": self._event_number, "timestamp": now_ms(), **event}
        self._event_number += 1
        self.ledger.append(event)
        self._buffer.append(event)
        if len(self._buffer) >= BATCH_SIZE:
            self.flush()

    async def _stay_connected(self) -> None:
        headers = {"X-Client-ID": self.id, "X-Shard-Name": self.shard}
        while True:
            with contextlib.suppress(OSError, ConnectionClosed, TimeoutError):
                async with connect(self.url, additional_headers=headers, open_timeout=2) as self.socket:
                    await self._greet()
                    async for frame in self.socket:
                        self._hear(json.loads(frame))
            self.socket = None
            await asyncio.sleep(RECONNECT_S)

    async def _greet(self) -> None:
        capabilities = {"binaryProtocol": False, "compression": False, "batching": True}
        capabilities |= {"maxBatchSize": 1000, "maxMessageSize": 4 * 1024 * 1024}
        await self._say(
            "connect",
            sourceShardName=self.shard,
            lastAckSequence=self._last_ack,
            protocolVersion=1,
            capabilities=capabilities,
        )

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            with contextlib.suppress(ConnectionClosed):
                await self._say("heartbeat", lastAckSequence=self._last_ack, pendingEvents=len(self._buffer))

    async def _say(self, kind: str, **fields: Any) -> None:
        if self.socket is not None:
            await self.socket.send(json.dumps({"type": kind, "timestamp": now_ms(), "sourceDoId": self.id} | fields))

    def _hear(self, message: dict[str, Any]) -> None:
        self.heard.append(message)
        if message["type"] not in {"ack", "nack"}:
            return
        pending = self._pending.pop(message["sequenceNumber"], None)
        if pending is None or pending.done():
            return
        if message["type"] == "ack":
            pending.set_result(None)
        else:
            pending.set_exception(RuntimeError(message["errorMessage"]))

    async def _send(self, batch: Retry, **fields: Any) -> None:
        answer = self._pending[batch.number] = asyncio.get_running_loop().create_future()
        message = {
            "correlationId": str(uuid.uuid4()),
            "events": batch.events,
            "sequenceNumber": batch.number,
            "firstEventSequence": batch.events[0]["sequence"],
            "lastEventSequence": batch.events[-1]["sequence"],
            "sizeBytes": len(json.dumps(batch.events)),
            "isRetry": batch.attempts > 0,
            "retryCount": batch.attempts,
        }
        try:
            await self._say("cdc_batch", **fields, **message)
            await asyncio.wait_for(answer, ACK_TIMEOUT_S)
        except (TimeoutError, RuntimeError, ConnectionClosed):
            self._pending.pop(batch.number, None)
            self._retries.append(Retry(batch.events, batch.number, batch.attempts + 1))
        else:
            self._last_ack = self.storage["last_ack_sequence"] = batch.number
            self.unsettled.discard(batch.number)

    async def _retry(self) -> None:
        for _ in itertools.count():
            await asyncio.sleep(0.05)
            if self.socket is None or not self._retries:
                continue
            batch = self._retries[0]
            if batch.attempts > ATTEMPTS_MAX:
                self.dead_letters += batch.events
                self.unsettled.discard(batch.number)
            else:
                await self._send(batch)
            del self._retries[0]
