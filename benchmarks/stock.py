"""What one would write with Channels without thinking about sleep; run beside the parent by benchmarks.idle.

benchmarks.stock:echo       answers a heartbeat, and that is all
benchmarks.stock:rows       does what such an application does: notes in the child's row when it was heard of
benchmarks.stock:bare       no Channels at all: the least that an ASGI application can be, for comparison
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evodb_site.settings")

import django

django.setup()

from channels.db import database_sync_to_async  # noqa: E402 - Django is ready only now
from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

from lakehouse.clock import now_ms  # noqa: E402
from lakehouse.models import Child  # noqa: E402


class Echo(AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # channels has no types
    async def receive_json(self, content: dict[str, Any], **_: Any) -> None:
        await self.heard(content)
        await self.send_json({"type": "pong", "timestamp": content["timestamp"], "serverTime": now_ms()})

    async def heard(self, content: dict[str, Any]) -> None:
        pass


class Rows(Echo):
    async def heard(self, content: dict[str, Any]) -> None:
        await database_sync_to_async(_seen)(content["sourceDoId"])


def _seen(name: str) -> None:
    Child.objects.filter(parent__name="default", name=name).update(last_seen_ms=now_ms())


async def bare(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": '{"type":"pong"}'})


echo = ProtocolTypeRouter({"websocket": URLRouter([path("ws", Echo.as_asgi())])})
rows = ProtocolTypeRouter({"websocket": URLRouter([path("ws", Rows.as_asgi())])})
