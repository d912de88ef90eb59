"""What a request about events hears: JSON that any page of any site may read, and the id it can be found by. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from lakehouse.events.refusals import Code, EventsRefused
from lakehouse.events.window import Left
from lakehouse.limits.refusal import Headers, Response

CORRELATION = b"x-correlation-id"
CORRELATION_CHARS_MAX = 128
ANYBODY: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"*"),
]
"""A key is no cookie: a page that has none is refused, whichever site it is of."""
PREFLIGHT: Headers = [
    (b"access-control-allow-headers", b"Authorization, Content-Type, X-Correlation-ID, Last-Event-ID"),
    (b"access-control-max-age", b"86400"),
]


def answer(status: int, document: Any, correlation_id: str, *headers: tuple[bytes, bytes]) -> Response:
    return written(status, orjson.dumps(document), b"application/json", correlation_id, *headers)


def written(
    status: int, body: bytes, content_type: bytes, correlation_id: str, *headers: tuple[bytes, bytes]
) -> Response:
    fixed = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"x-content-type-options", b"nosniff"),
        (CORRELATION, correlation_id.encode("latin-1")),
        *ANYBODY,
    ]
    return Response(status, [*fixed, *headers], body)


def refused(refusal: EventsRefused, correlation_id: str, *headers: tuple[bytes, bytes]) -> Response:
    said = list(headers)
    if refusal.retry_after_s is not None:
        said.append((b"retry-after", b"%d" % refusal.retry_after_s))
    if refusal.code.http_status == 401:
        said.append((b"www-authenticate", b"Bearer"))
    if refusal.code is Code.PAYLOAD_TOO_LARGE:
        said.append((b"connection", b"close"))
    return answer(refusal.code.http_status, refusal.document, correlation_id, *said)


def preflight(methods: str, correlation_id: str) -> Response:
    allowed = (b"access-control-allow-methods", f"{methods}, OPTIONS".encode())
    return answer(200, {"ok": True}, correlation_id, allowed, *PREFLIGHT)


def not_allowed(path: str, method: str, allowed: str, correlation_id: str) -> Response:
    refusal = EventsRefused(Code.METHOD_NOT_ALLOWED, f"{path} answers {allowed}, not {method}")
    return refused(refusal, correlation_id, (b"allow", allowed.encode()))


def correlation_of(asked: str | None, *, otherwise: str) -> str:
    """The one that came, if a header may have it."""
    if asked and len(asked) <= CORRELATION_CHARS_MAX and asked.isascii() and asked.isprintable():
        return asked
    return otherwise


def rate_limit(left: Left) -> Headers:
    return [
        (b"x-ratelimit-limit-requests", b"%d" % left.requests_max),
        (b"x-ratelimit-limit-events", b"%d" % left.events_max),
        (b"x-ratelimit-remaining-requests", b"%d" % left.requests),
        (b"x-ratelimit-remaining-events", b"%d" % left.events),
        (b"x-ratelimit-reset", b"%d" % left.reset_at_s),
    ]
