"""daphne's handshakes, mended: headers on the 101, and a refusal that is a real HTTP answer.

daphne 4.2 knows neither the headers of `websocket.accept` nor the ASGI extension `websocket.http.response`: it drops
both without a word, and all it can refuse with is a bare 403. autobahn below it takes headers for a 101, and the bytes
of any other answer. What comes before a handshake, and every request that is none, goes through `channel`, which bounds
it and waits for whoever reads its answer. Nothing else of daphne is touched, and uvicorn is not affected.
"""

from __future__ import annotations

import os
from typing import Any

from daphne.http_protocol import HTTPFactory
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from twisted.web.http import _GenericHTTPChannelProtocol

from lakehouse.conf import Settings, load
from lakehouse.limits.channel import Channel, Desk, head
from lakehouse.limits.refusal import EXTENSION


def mend(settings: Settings | None = None) -> None:
    """Harmless when it is done twice. Without settings they are those of the environment."""
    desk = Desk(settings or load(os.environ))
    HTTPFactory.protocol = staticmethod(lambda: _GenericHTTPChannelProtocol(Channel(desk)))
    Server.create_application = _create_application
    Server.handle_reply = _send
    WebSocketProtocol.handle_reply = _handle_reply


async def _send(server: Any, protocol: Any, message: dict[str, Any]) -> None:
    """daphne takes an answer without end, whether anybody reads it or not."""
    await _tell(server, protocol, message)
    channel = getattr(protocol, "channel", None)
    if message["type"] == "http.response.body" and message.get("more_body") and isinstance(channel, Channel):
        await channel.read()


def _create_application(server: Any, protocol: Any, scope: dict[str, Any]) -> Any:
    if scope["type"] == "websocket":
        scope.setdefault("extensions", {})[EXTENSION] = {}
    return _create(server, protocol, scope)


def _handle_reply(protocol: Any, message: dict[str, Any]) -> None:
    """Where the conversation is over autobahn would raise, and daphne may not know it yet."""
    if protocol.state == protocol.STATE_OPEN:
        if message["type"] == "websocket.close":
            protocol.goodbye = message.get("reason", "")  # daphne drops it
        _reply(protocol, message)
    elif protocol.state == protocol.STATE_CONNECTING:
        _answer(protocol, message)


def _answer(protocol: Any, message: dict[str, Any]) -> None:
    """To the handshake."""
    if message["type"] == "websocket.accept" and message.get("headers"):
        _accept(protocol, message)
    elif message["type"] == f"{EXTENSION}.start":
        protocol.refusal = [head(message["status"], message.get("headers", ()))]
    elif message["type"] == f"{EXTENSION}.body":
        protocol.refusal.append(message.get("body", b""))
        if not message.get("more_body", False):
            _refuse(protocol)
    else:
        _reply(protocol, message)


def _accept(protocol: Any, message: dict[str, Any]) -> None:
    headers: dict[str, list[str]] = {}
    for name, value in message["headers"]:
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    protocol.handshake_deferred.callback((message.get("subprotocol"), headers))
    del protocol.handshake_deferred


def _refuse(protocol: Any) -> None:
    """As daphne's own `serverReject` does it, with another answer."""
    del protocol.handshake_deferred
    protocol.wasNotCleanReason = "refused by the application"
    protocol.sendData(b"".join(protocol.refusal))
    protocol.dropConnection(abort=False)
    protocol.server.protocol_disconnected(protocol)


_create = Server.create_application
_tell = Server.handle_reply
_reply = WebSocketProtocol.handle_reply
