"""The ASGI application: HTTP to Django, sockets to the parent. Start it with `daphne evodb_site.asgi:application`.

With --websocket_timeout -1 and 16777216 for --websocket-max-message-size and --websocket-max-frame-size, as `evodb up`
does: daphne's defaults close a socket after a day, and for a frame over 1 MiB.
"""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evodb_site.settings")

from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application

http = get_asgi_application()

from evodb_site.celery import app  # noqa: E402 - whoever asks for flushes needs the broker's settings
from lakehouse.http.front import Front  # noqa: E402 - the models are ready only now
from lakehouse.limits import handshake  # noqa: E402 - daphne is loaded by now
from lakehouse.parent import farewell  # noqa: E402 - daphne is loaded by now
from lakehouse.parent.edge import Edge  # noqa: E402 - the models are ready only now
from lakehouse.routing import websocket_urlpatterns  # noqa: E402 - the models are ready only now

farewell.mend()
handshake.mend()
over_http = Edge(Front(http), key=settings.EVODB.grip_key) if settings.EVODB.grip else Front(http)
application = ProtocolTypeRouter({"http": over_http, "websocket": URLRouter(websocket_urlpatterns)})

__all__ = ["app", "application"]
