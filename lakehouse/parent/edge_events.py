"""WebSocket-over-HTTP: what happened on one socket, as the body of a request, and what it shall hear, as the answer's.

    OPEN\\r\\n                   an event is its kind alone,
    TEXT 5\\r\\nhello\\r\\n        or its kind, the size of its content in hexadecimal digits, and the content

Pure, and it knows nothing of what the frames say. The format is GRIP's; Pushpin and its like speak it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

CONTENT_TYPE = b"application/websocket-events"
EVENTS_MAX = 10_000
"""Of one body; each is a frame of a child, and a child may have fewer unanswered."""
HEAD_BYTES_MAX = 32
CLOSE_REASON_BYTES_MAX = 123
"""A close frame holds 125, of which the code takes two."""
CONTROL = "c:"
"""Text that begins so is meant for the proxy, once its extension was accepted (`EXTENSION`)."""
EXTENSION = b'grip; message-prefix=""'
CRLF = b"\r\n"


class Kind(Enum):
    OPEN = b"OPEN"
    TEXT = b"TEXT"
    BINARY = b"BINARY"
    PING = b"PING"
    PONG = b"PONG"
    CLOSE = b"CLOSE"
    DISCONNECT = b"DISCONNECT"
    """The socket is gone without a goodbye."""


WITH_CONTENT = {Kind.TEXT, Kind.BINARY}
"""These say their size even when it is 0."""
HEAD = re.compile(rb"(%s)(?: ([0-9A-Fa-f]{1,8}))?" % b"|".join(kind.value for kind in Kind))


class NotEvents(ValueError):
    """A body that is not made of events; the message says where it stops being so."""


@dataclass(frozen=True, slots=True)
class Event:
    kind: Kind
    content: bytes = b""

    @property
    def frame(self) -> str | bytes:
        """What the child sent. Raises NotEvents for a text that is none."""
        if self.kind is Kind.BINARY:
            return self.content
        try:
            return self.content.decode()
        except UnicodeDecodeError as exc:
            raise NotEvents(f"a text of {len(self.content)} bytes is not UTF-8: {exc.reason}") from None


def read(body: bytes) -> list[Event]:
    """The events of a body, in order. Raises NotEvents."""
    events: list[Event] = []
    at = 0
    while at < len(body):
        if len(events) == EVENTS_MAX:
            raise NotEvents(f"more than {EVENTS_MAX} events in one body")
        event, at = _read_one(body, at)
        events.append(event)
    return events


def write(events: Iterable[Event]) -> bytes:
    parts: list[bytes] = []
    for event in events:
        if event.content or event.kind in WITH_CONTENT:
            parts += (b"%s %x\r\n" % (event.kind.value, len(event.content)), event.content, CRLF)
        else:
            parts += (event.kind.value, CRLF)
    return b"".join(parts)


def say(frame: str | bytes) -> Event:
    """A frame the child shall hear."""
    if isinstance(frame, bytes):
        return Event(Kind.BINARY, frame)
    assert not frame.startswith(CONTROL), "the proxy would take this for an order"
    return Event(Kind.TEXT, frame.encode())


def close(code: int, reason: str = "") -> Event:
    text = reason.encode()[:CLOSE_REASON_BYTES_MAX].decode(errors="ignore").encode()
    return Event(Kind.CLOSE, code.to_bytes(2, "big") + text)


def order(**fields: Any) -> Event:
    """Something the proxy shall do by itself from now on."""
    return Event(Kind.TEXT, CONTROL.encode() + orjson.dumps(fields))


def _read_one(body: bytes, at: int) -> tuple[Event, int]:
    line_end = body.find(CRLF, at, at + HEAD_BYTES_MAX)
    head = HEAD.fullmatch(body, at, line_end) if line_end >= 0 else None
    if head is None:
        raise NotEvents(f"byte {at}: {body[at : at + HEAD_BYTES_MAX]!r} begins no event, wanted one such as 'TEXT 5'")
    kind, size, begin = Kind(head[1]), head[2], line_end + len(CRLF)
    if size is None:
        return Event(kind), begin
    end = begin + int(size, 16)
    if body[end : end + len(CRLF)] != CRLF:
        raise NotEvents(f"byte {at}: no line end after the {int(size, 16)} bytes this event announces")
    return Event(kind, body[begin:end]), end + len(CRLF)
