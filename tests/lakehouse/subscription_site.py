"""A receiver of webhooks on a real socket, commits to tell it of, and the process that tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import sync_to_async

from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import Source, accept
from lakehouse.models import Parent
from lakehouse.subscriptions import desk, signatures
from lakehouse.subscriptions.deliverer import Deliverer
from lakehouse.subscriptions.lake import TableReader
from lakehouse.subscriptions.models import Subscription
from rpc.entries import RawEntry
from tests.builders import NOW_MS, frame

LOOPBACK = "127.0.0.0/8"


@dataclass
class Clock:
    now_ms: int = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@dataclass(frozen=True)
class Heard:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        found = self.json
        return found["events"] if "batchId" in found else [found]

    def is_signed(self, by: Subscription, now_ms: int = NOW_MS) -> bool:
        return signatures.is_ours(by.secret, self.headers, self.body, now_s=now_ms // 1000)


Answer = tuple[int, bytes] | tuple[int, bytes, dict[str, str]]


@dataclass
class Receiver:
    """Answers with what `answers` has, one after the other, then with 204; `None` is no answer at all."""

    port: int = 0
    heard: list[Heard] = field(default_factory=list)
    answers: list[Answer | None] = field(default_factory=list)
    decide: Callable[[Heard], Answer | None] | None = None

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def rows(self) -> list[str]:
        return [event.get("docId", event["type"]) for one in self.heard for event in one.events]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
            body = await reader.readexactly(int(headers["content-length"]))
            one = Heard(head[0].split(" ")[1], headers, body)
            self.heard.append(one)
            answer = self._answer(one)
            if answer is None:
                await reader.read()  # until the caller has had enough
                return
            status, said, *more = answer
            extra = "".join(f"{name}: {value}\r\n" for name, value in (more[0] if more else {}).items())
            writer.write(f"HTTP/1.1 {status} X\r\n{extra}content-length: {len(said)}\r\n\r\n".encode() + said)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _answer(self, one: Heard) -> Answer | None:
        if self.decide is not None:
            return self.decide(one)
        return self.answers.pop(0) if self.answers else (204, b"")


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


@dataclass
class Street:
    """A worker that flushes and a process that delivers, over the same lake and clock."""

    settings: Settings
    clock: Clock = field(default_factory=Clock)
    commits: int = 0

    def commit(self, shop: Source, content: list[RawEntry]) -> None:
        """One batch, one commit."""
        self.commits += 1
        accept([(shop, frame(self.commits, content, timestamp_ms=self.clock()))], now_ms=self.clock())
        flusher = Flusher("w", self.settings, chosen(self.settings), self.clock)
        assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL) is not None

    def subscribe(self, shop: Source, target: str, pattern: str = "**", **fields: Any) -> Subscription:
        parent = Parent.objects.get(pk=shop.parent_id)
        given = {"name": "hook", "target_kind": "webhook", "target": target, "pattern": pattern, **fields}
        assert desk.complaints(given) == {}
        return desk.subscribe(parent, given, now_ms=self.clock())

    def deliverer(self, owner: str = "d-1", **changes: Any) -> Deliverer:
        return Deliverer(owner, self.settings, TableReader(self.settings).read, self.clock, chance=lambda: 0.0)

    async def deliver(self, owner: str = "d-1") -> None:
        """Until nothing is due."""
        one = self.deliverer(owner)
        await one.until_idle()
        await one.stop()

    async def later(self, by_ms: int) -> None:
        self.clock.now_ms += by_ms
        await self.deliver()


commit = sync_to_async(Street.commit)
subscribe = sync_to_async(Street.subscribe)
