"""The site's own ASGI application, asked without a network in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from asgiref.testing import ApplicationCommunicator

from evodb_site import asgi
from lakehouse.conf import Settings
from lakehouse.http.front import Front
from lakehouse.parent.house import House, move_in, open_house

DOORS = {"front": Front(asgi.http), "django": asgi.http}
"""POST /cdc is the same behind both; the front is the quick one."""


@dataclass(frozen=True)
class Heard:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """As the Iceberg REST protocol tells it."""
        error = self.json.get("error", {"code": self.status, "type": "no error", "message": self.body})
        assert error["code"] == self.status
        assert error["message"]
        return self.status, error["type"]


async def ask(
    method: str,
    path: str,
    body: bytes | Any = b"",
    *,
    token: str | None = None,
    headers: dict[str, str] | None = None,
    door: str = "front",
    chunks: int = 1,
    client: tuple[str, int] = ("127.0.0.1", 50_000),
) -> Heard:
    """In several chunks nobody knows how large the body is before it is there."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = (headers or {}) | ({"authorization": f"Bearer {token}"} if token else {})
    if data and chunks == 1:
        sent["content-length"] = str(len(data))
    wire = ApplicationCommunicator(DOORS[door], scope_of(method, path, sent, client))
    step = -(-len(data) // chunks) or 1
    parts = [data[start : start + step] for start in range(0, len(data), step)] or [b""]
    for part in parts:
        await wire.send_input({"type": "http.request", "body": part, "more_body": part is not parts[-1]})
    start = await said(wire)
    whole = b""
    while True:
        message = await said(wire)
        whole += message.get("body", b"")
        if not message.get("more_body"):
            break
    await wire.wait(20)
    found = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
    return Heard(start["status"], found, whole)


async def said(wire: ApplicationCommunicator) -> Any:
    """The next message, or at once the error of an application that ended without one; asgiref waits its time out."""
    message = asyncio.create_task(wire.receive_output(20))
    await asyncio.wait({message, wire.future}, return_when=asyncio.FIRST_COMPLETED)
    if not message.done() and wire.output_queue.empty() and wire.future.exception():
        message.cancel()
        wire.future.result()
    return await message


def scope_of(
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    client: tuple[str, int] = ("127.0.0.1", 50_000),
) -> dict[str, Any]:
    path, _, query = path.partition("?")
    found = {"host": "127.0.0.1:8800"} | (headers or {})
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in found.items()],
        "client": client,
        "server": ("127.0.0.1", 8800),
    }


@contextlib.asynccontextmanager
async def home(**settings: object) -> AsyncIterator[tuple[House, list[Any]]]:
    """A house in this event loop, and what it asked of workers."""
    asked: list[Any] = []
    opened = move_in(open_house(Settings(**({"open": True} | settings)), ask=lambda *what: asked.append(what)))
    try:
        yield opened, asked
    finally:
        await opened.close()
