"""A refused handshake as HTTP: 429, when to come back, and why. Pure; whoever holds the socket sends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from lakehouse.limits.allowance import Headroom
from lakehouse.limits.gate import Refusal

Headers = list[tuple[bytes, bytes]]
EXTENSION = "websocket.http.response"
"""ASGI's name for a server that lets an application answer a handshake with HTTP."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Headers
    body: bytes

    def messages(self) -> Iterator[dict[str, Any]]:
        """What is sent through ASGI instead of accepting."""
        yield {"type": f"{EXTENSION}.start", "status": self.status, "headers": self.headers}
        yield {"type": f"{EXTENSION}.body", "body": self.body}


def rate_limit_headers(left: Headroom) -> Headers:
    """The headers of a 101 and of a 429."""
    return [
        (b"x-ratelimit-limit", b"%d" % left.limit),
        (b"x-ratelimit-remaining", b"%d" % left.remaining),
        (b"x-ratelimit-reset", b"%d" % left.reset_at_s),
    ]


def response(refusal: Refusal) -> Response:
    shown = {"clientIp": refusal.client_ip} if refusal.client_ip else {}
    shown |= {"message": refusal.message} if refusal.message else {}
    body = orjson.dumps(
        {"error": "Too Many Requests", "reason": refusal.reason, "retryAfter": refusal.retry_after_s} | shown
    )
    headers = [
        *rate_limit_headers(refusal.headroom),
        (b"retry-after", b"%d" % refusal.retry_after_s),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    return Response(429, headers, body)
