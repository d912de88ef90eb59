"""daphne's handshakes, mended: headers on the 101, and a refusal that is a real HTTP answer.

daphne 4.2 knows neither the headers of `websocket.accept` nor the ASGI extension `websocket.http.response`: it drops
both without a word, and all it can refuse with is a bare 403. autobahn below it takes headers for a 101, and the bytes
of any other answer. And whoever sends a request line by line may take hours: every line gives it a minute more. Here a
request has `HEAD_S` to be complete. Nothing else of daphne is touched, and uvicorn is not affected.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from daphne.http_protocol import HTTPFactory
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol

from lakehouse.limits.refusal import EXTENSION

HEAD_S = 10
"""For a request up to its body, from the connection or the request before it; also for every pause in a body."""


def mend() -> None:
    """Harmless when it is done twice."""
    HTTPFactory.protocol = staticmethod(lambda: _GenericHTTPChannelProtocol(_Channel()))
    Server.create_application = _create_application
    WebSocketProtocol.handle_reply = _handle_reply


class _Channel(HTTPChannel):  # type: ignore[misc]  # Twisted has no types for it
    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        self.timeOut = HEAD_S
        super().connectionMade()

    def resetTimeout(self) -> None:  # noqa: N802 - Twisted's name
        """Something arrived; a line of a head is no reason to wait longer."""
        if self._transferDecoder is not None:
            super().resetTimeout()


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
        protocol.refusal = [_head(message["status"], message.get("headers", ()))]
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


def _head(status: int, headers: Any) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
    return b"\r\n".join([*lines, *(name + b": " + value for name, value in headers), b"", b""])


_create = Server.create_application
_reply = WebSocketProtocol.handle_reply
