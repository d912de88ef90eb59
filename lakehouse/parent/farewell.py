"""daphne's goodbyes, mended: a process that stops lets its connections answer and close with 1001.

daphne 4.2 closes sockets with autobahn's `sendClose`, which refuses every code below 3000 but 1000, so that 1001, 1008
and 1013 raise inside the application and arrive as 1011; and it forgets the reason. A frame that is too large or no
frame at all ends in a reset of the socket instead of a code. A shutdown goes on listening, trips over a connection that
has no application (every handshake of the last second leaves one), which ends the process at once, and closes nothing
of ours. This is replaced here; nothing else of daphne is touched, and another server is not affected.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from daphne.server import Server
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from django.conf import settings as django_settings
from twisted.internet.defer import Deferred

from lakehouse.parent.house import announce_move_out, move_out

log = logging.getLogger(__name__)

NORMAL = 1000
MOVE_OUT_SHARE = 0.2
"""Of `drain_ms`, when the sockets are closed; what is not told by then is found out later."""


def mend() -> None:
    """Harmless when it is done twice."""
    WebSocketProtocol.serverClose = _close
    WebSocketFactory.__init__ = _init_factory
    Server.listen_success = _listen_success
    Server.kill_all_applications = _kill_all_applications


def _close(protocol: Any, code: int | None = None) -> None:
    if protocol.state == protocol.STATE_OPEN:
        reason = getattr(protocol, "goodbye", "").encode()
        protocol.sendCloseFrame(NORMAL if code is None else code, reason or None, isReply=False)


def _init_factory(factory: Any, *arguments: Any, **options: Any) -> None:
    _init(factory, *arguments, **options)
    factory.setProtocolOptions(failByDrop=False)


def _listen_success(server: Any, port: Any) -> None:
    server.ports = [*getattr(server, "ports", []), port]
    _listened(server, port)


def _kill_all_applications(server: Any) -> Any:
    asyncio.get_event_loop().call_soon(announce_move_out)
    for port in getattr(server, "ports", []):
        port.stopListening()
    nothing: asyncio.Future[None] = asyncio.get_event_loop().create_future()
    nothing.set_result(None)
    for details in server.connections.values():
        details.setdefault("application_instance", nothing)
    return _kill(server).addBoth(lambda _: Deferred.fromFuture(asyncio.ensure_future(_move_out())))


async def _move_out() -> None:
    within_s = django_settings.EVODB.drain_ms / 1000 * MOVE_OUT_SHARE
    try:
        async with asyncio.timeout(within_s):
            await move_out()
    except TimeoutError:
        log.error("who is here and what waits was not told within %.1f s", within_s)
    except Exception:
        log.exception("who is here and what waits was not told")


_init = WebSocketFactory.__init__
_listened = Server.listen_success
_kill = Server.kill_all_applications
