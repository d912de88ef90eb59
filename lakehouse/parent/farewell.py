"""daphne's goodbyes, mended: a process that stops lets its connections answer and close with 1001.

daphne 4.2 closes sockets with autobahn's `sendClose`, which refuses every code below 3000 but 1000, so that 1001, 1008
and 1013 raise inside the application and arrive as 1011. And its shutdown trips over a connection that has no
application (every handshake of the last second leaves one), which ends the process at once. Both methods are replaced
here; nothing else of daphne is touched, and another server is not affected.
"""

from __future__ import annotations

import asyncio
from typing import Any

from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol

NORMAL = 1000


def mend() -> None:
    """Harmless when it is done twice."""
    WebSocketProtocol.serverClose = _close
    Server.kill_all_applications = _kill_all_applications


def _close(protocol: Any, code: int | None = None) -> None:
    if protocol.state == protocol.STATE_OPEN:
        protocol.sendCloseFrame(code=NORMAL if code is None else code, isReply=False)


def _kill_all_applications(server: Any) -> Any:
    nothing: asyncio.Future[None] = asyncio.get_event_loop().create_future()
    nothing.set_result(None)
    for details in server.connections.values():
        details.setdefault("application_instance", nothing)
    return _kill(server)


_kill = Server.kill_all_applications
