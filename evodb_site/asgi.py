"""The ASGI application: HTTP to Django, sockets to the parent. Start it with `daphne evodb_site.asgi:application`.

With --websocket_timeout -1 and 16777216 for --websocket-max-message-size and --websocket-max-frame-size, as `evodb up`
does: daphne's defaults close a socket after a day, and for a frame over 1 MiB.
"""

from __future__ import annotations

import gc
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evodb_site.settings")

from collections.abc import Awaitable
from typing import Any

import daphne.server  # noqa: F401 - installs its reactor before anybody asks Twisted for one
import django
from asgiref.sync import markcoroutinefunction
from django.conf import settings

from lakehouse.http.handler import Handler

django.setup(set_prefix=False)
http = Handler()

from evodb_site.celery import app  # noqa: E402 - whoever asks for flushes needs the broker's settings
from lakehouse.http.front import Front  # noqa: E402 - the models are ready only now
from lakehouse.limits import deflate, handshake  # noqa: E402 - daphne is loaded by now
from lakehouse.parent import ballast, farewell  # noqa: E402 - daphne is loaded by now
from lakehouse.parent.edge import Edge  # noqa: E402 - the models are ready only now
from lakehouse.routing import websocket  # noqa: E402 - the models are ready only now

ballast.mend()
farewell.mend()
deflate.mend(inflated_bytes_max=settings.EVODB.frame_bytes_max if settings.EVODB.websocket_compression else 0)
handshake.mend()
over_http = Edge(Front(http), key=settings.EVODB.grip_key) if settings.EVODB.grip else Front(http)


@markcoroutinefunction
def application(scope: dict[str, Any], receive: Any, send: Any) -> Awaitable[None]:
    """No coroutine of its own: a socket that sleeps is one, and this would be another."""
    return websocket(scope, receive, send) if scope["type"] == "websocket" else over_http(scope, receive, send)


gc.freeze()  # what is loaded by now stays; looking for garbage in it made 0.09 of the 0.51 ms of a handshake

__all__ = ["app", "application"]
