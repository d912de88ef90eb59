"""Where children knock."""

from __future__ import annotations

from typing import Any

from channels.consumer import AsyncConsumer
from django.urls import URLPattern, re_path

from lakehouse.models.parents import PARENT_NAME
from lakehouse.parent.consumer import ChildConsumer, Receive
from lakehouse.parent.outflow import Send


class NothingHere(AsyncConsumer):  # type: ignore[misc]  # channels has no types
    """Any other path: the handshake is refused with HTTP 403 instead of a traceback in the log."""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close"})


websocket_urlpatterns: list[URLPattern] = [
    re_path(r"^ws/?$", ChildConsumer.as_asgi()),
    re_path(rf"^ws/(?P<parent>{PARENT_NAME})/?$", ChildConsumer.as_asgi()),
    re_path(r"", NothingHere.as_asgi()),
]
