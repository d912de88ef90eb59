"""What one would write with Channels without thinking about sleep; run beside the parent by `idle` and `ingest`.

benchmarks.stock:echo       answers a heartbeat with a pong and a batch with itself, and that is all
benchmarks.stock:rows       does what such an application does: notes in the child's row when it was heard of
benchmarks.stock:bare       no Channels at all: the least that an ASGI application can be, for comparison
"""

from __future__ import annotations

import json
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evodb_site.settings")

import django

django.setup()

from channels.db import database_sync_to_async  # noqa: E402 - Django is ready only now
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

from lakehouse.clock import now_ms  # noqa: E402
from lakehouse.models import Child  # noqa: E402


class Echo(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels has no types
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data is None:
            await self.send(bytes_data=bytes_data)
            return
        content = json.loads(text_data)
        await self.heard(content)
        await self.send(json.dumps({"type": "pong", "timestamp": content["timestamp"], "serverTime": now_ms()}))

    async def heard(self, content: dict[str, Any]) -> None:
        pass


class Rows(Echo):
    async def heard(self, content: dict[str, Any]) -> None:
        await database_sync_to_async(_seen)(content["sourceDoId"])


def _seen(name: str) -> None:
    if not Child.objects.filter(parent__name="default", name=name).update(last_seen_ms=now_ms()):
        raise LookupError(f"child {name!r} has no row; the benchmark makes them beforehand")


async def bare(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        raise NotImplementedError(scope["type"])
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": '{"type":"pong"}'})


echo = ProtocolTypeRouter({"websocket": URLRouter([path("ws", Echo.as_asgi())])})
rows = ProtocolTypeRouter({"websocket": URLRouter([path("ws", Rows.as_asgi())])})
