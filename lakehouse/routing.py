"""Where children knock."""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import Any

from lakehouse.models.parents import PARENT_NAME
from lakehouse.parent.consumer import ChildConsumer, Receive
from lakehouse.parent.outflow import Send

PATH = re.compile(rf"/*ws(?:/(?P<parent>{PARENT_NAME}))?/?")


def websocket(scope: dict[str, Any], receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
    """The application behind a WebSocket: a child's, and nothing else.

    By hand, because every router of Channels parks one more coroutine per socket, 1.1 KiB in all.
    """
    path = PATH.fullmatch(scope["path"].removeprefix(scope.get("root_path", "")))
    if path is None:
        return _nothing_here(receive, send)
    scope["url_route"] = {"kwargs": path.groupdict()}
    return ChildConsumer()(scope, receive, send)


async def _nothing_here(receive: Receive, send: Send) -> None:
    """The handshake is refused with HTTP 403 instead of a traceback in the log."""
    await receive()
    await send({"type": "websocket.close"})
