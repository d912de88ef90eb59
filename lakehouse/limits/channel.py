"""A connection of daphne's before it is a WebSocket: what it may send, and for how long. Twisted bounds neither.

daphne asks nobody before the whole body is here, so everything is decided when the head is: a body that is too large,
or comes with a handshake, is refused before a byte of it is kept, a key or not. One that does not say how large it is
is counted as it comes. No byte that arrives buys more time: a head has `HEAD_S`, a body `BODY_S_PER_MIB` more.

An answer that goes on waits for its reader, too: what he does not read fills no memory.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import orjson
from twisted.web.http import HTTPChannel

from lakehouse.conf import Settings
from lakehouse.limits.addresses import AddressBook
from lakehouse.limits.lobby import Lobby
from lakehouse.limits.refusal import Headers

HEAD_S = 10
"""For a request up to its body, from the connection or the request before it."""
BODY_S_PER_MIB = 8
"""For a line of 1 Mbit/s; 16 MiB have 138 s with HEAD_S."""
LINGER_S = 2
"""What still comes after a refusal is thrown away for so long: to close at once would reset the line, and who is in
the middle of sending would never read why."""
UNREAD_S = 60
"""Who reads nothing of an answer for so long, while 64 KiB wait for him, is not there any more."""
AROUND_A_FRAME_BYTES = 64 * 1024
"""What a proxy writes around the largest frame, and JSON around the largest batch."""
MIB = 1024 * 1024


class Desk:
    """What the connections of a process share."""

    def __init__(self, settings: Settings) -> None:
        self.book = AddressBook(settings)
        self.body_bytes_max = max(settings.frame_bytes_max, settings.max_payload_size) + AROUND_A_FRAME_BYTES
        self.lobby: Lobby[Channel] = Lobby(
            open_max=settings.max_http_connections, of_household_max=settings.max_http_connections_per_ip
        )


class Channel(HTTPChannel):  # type: ignore[misc]  # Twisted has no types for it
    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._is_refused = False
        self._read: asyncio.Event | None = None
        """While the other side has to read before more is written."""

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        self.timeOut = HEAD_S
        super().connectionMade()
        peer = getattr(self.transport.getPeer(), "host", None)
        going = self._desk.lobby.enter(self, self._desk.book.household_of(peer))
        if going is self:
            document = {"error": "Too Many Requests", "reason": "connection_limit", "retryAfter": 1}
            self._answer(429, document, (b"retry-after", b"1"))
            self.transport.loseConnection()  # at once: it is one too many
        elif going is not None:
            going.transport.abortConnection()

    def connectionLost(self, reason: Any) -> None:  # noqa: N802 - Twisted's name
        self._desk.lobby.leave(self)
        super().connectionLost(reason)
        self._go_on()

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        self._read = self._read or asyncio.Event()
        super().pauseProducing()

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        super().resumeProducing()
        self._go_on()

    async def read(self) -> None:
        """Wait until there is room for more of an answer, or nobody is there who would read it."""
        if self._read is None:
            return
        try:
            async with asyncio.timeout(UNREAD_S):
                await self._read.wait()
        except TimeoutError:
            self.transport.abortConnection()

    def _go_on(self) -> None:
        if self._read is not None:
            self._read.set()
            self._read = None

    def resetTimeout(self) -> None:  # noqa: N802 - Twisted's name
        """Something arrived, which is no reason to wait longer."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if not self._is_refused:
            super().dataReceived(data)

    def allHeadersReceived(self) -> None:  # noqa: N802 - Twisted's name
        bytes_max = self._desk.body_bytes_max
        # Nobody here asks for the fields of a form, and 16 MiB of `a&` kept everybody else waiting for 8 s.
        self.requests[-1]._parsePOSTFormSubmission = False
        if self.length != 0 and _is_handshake(self.requests[-1]):
            self._refuse(400, {"error": "a handshake has no body; send what is to be said as frames"})
        elif self.length is not None and self.length > bytes_max:
            self._refuse_body(self.length)
        else:
            if self.length != 0:
                expected = bytes_max if self.length is None else self.length
                self.setTimeout(HEAD_S + expected * BODY_S_PER_MIB / MIB)
            super().allHeadersReceived()

    def rawDataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if self._is_refused:
            return
        super().rawDataReceived(data)
        if self.length is None and (received := self.requests[-1].content.tell()) > self._desk.body_bytes_max:
            self._refuse_body(received)

    def allContentReceived(self) -> None:  # noqa: N802 - Twisted's name
        request, self.timeOut = self.requests[-1], HEAD_S
        self._desk.lobby.serve(self)
        super().allContentReceived()
        if request.transport is None:  # daphne made a WebSocket of it, and nobody will tell us of its end
            self._desk.lobby.leave(self)

    def requestDone(self, request: Any) -> None:  # noqa: N802 - Twisted's name
        self._desk.lobby.wait(self)
        super().requestDone(request)

    def timeoutConnection(self) -> None:  # noqa: N802 - Twisted's name
        if self._is_refused:
            self.transport.abortConnection()
        elif self._transferDecoder is not None:
            self._refuse(408, {"error": f"the body was not complete after {self.timeOut:.0f} s"})
        else:
            super().timeoutConnection()

    def _refuse_body(self, received_bytes: int) -> None:
        bytes_max = self._desk.body_bytes_max
        document = {"error": f"a body has at most {bytes_max} bytes", "reason": "payload_too_large"}
        self._refuse(413, document | {"maxSize": bytes_max, "receivedSize": received_bytes})

    def _refuse(self, status: int, document: dict[str, Any]) -> None:
        """Answer, and end when the other side has read it; whatever it sends until then is not looked at."""
        self._answer(status, document)
        if hasattr(self.transport, "loseWriteConnection"):
            self.transport.loseWriteConnection()
            self.setTimeout(LINGER_S)
        else:
            self.transport.loseConnection()

    def _answer(self, status: int, document: dict[str, Any], *headers: tuple[bytes, bytes]) -> None:
        self._is_refused = True
        body = orjson.dumps(document)
        fixed = (
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        )
        self.transport.write(head(status, [*headers, *fixed]) + body)
        self._networkProducer.unregisterProducer()


def head(status: int, headers: Headers) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
    return b"\r\n".join([*lines, *(name + b": " + value for name, value in headers), b"", b""])


def _is_handshake(request: Any) -> bool:
    """As daphne knows it."""
    found = request.requestHeaders.getRawHeaders(b"upgrade", [b""])
    return bool(found[0].lower() == b"websocket")
