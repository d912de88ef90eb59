"""What an HTTP request hears: a status, headers, and JSON that says what was wrong. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from lakehouse.limits.refusal import Headers, Response
from rpc.dolake.refusals import Reason, Refusal, retry_delay_ms

STATUSES = {
    Reason.INVALID_FORMAT: 400,
    Reason.INVALID_SEQUENCE: 409,
    Reason.PAYLOAD_TOO_LARGE: 413,
    Reason.EVENT_TOO_LARGE: 413,
    Reason.TOO_MANY_EVENTS: 413,
    Reason.RATE_LIMITED: 429,
    Reason.LOAD_SHEDDING: 503,
    Reason.BUFFER_FULL: 503,
    Reason.SHUTTING_DOWN: 503,
    Reason.INTERNAL_ERROR: 503,
}
KEY_SAID = {
    400: "the name of the parent, the child or the shard cannot be used",
    401: "the access key is missing, wrong, revoked or expired",
    403: "the access key is not meant for this request, parent, child or namespace",
}
"""What a stranger may hear; the log knows more."""


def answer(status: int, document: Any, *headers: tuple[bytes, bytes]) -> Response:
    body = orjson.dumps(document)
    fixed = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-content-type-options", b"nosniff"),
    ]
    return Response(status, [*fixed, *headers], body)


def no_key(status: int, scopes: Sequence[str] = ()) -> Response:
    """The answer to who is not known, may not do this, or used a name that cannot be stored. `scopes` are those of
    which a good key has none and one would do.
    """
    challenge: Headers = [(b"www-authenticate", b"Bearer")] if status == 401 else []
    return answer(status, {"error": no_scope(scopes) if scopes else KEY_SAID[status]}, *challenge)


def no_scope(scopes: Sequence[str]) -> str:
    return (
        f"the access key does not have the scope {' or '.join(scopes)}, which this needs; "
        f"`manage.py accesskey create --scope {scopes[0]}` makes one that has"
    )


def closing() -> Response:
    """The answer to a write when this process takes none any more."""
    delay_ms = retry_delay_ms(Reason.SHUTTING_DOWN, refusals=0, chance=0)
    return refused(Refusal(Reason.SHUTTING_DOWN, "this process stops; another one takes over", delay_ms))


def refused(refusal: Refusal, *headers: tuple[bytes, bytes]) -> Response:
    """Events that were not taken. With a delay they may come again, and `Retry-After` says when in whole seconds."""
    document: dict[str, Any] = {"error": refusal.text, "reason": refusal.reason}
    if refusal.max_size is not None:
        document["maxSize"] = refusal.max_size
    if refusal.received_size is not None:
        document["receivedSize"] = refusal.received_size
    if refusal.retry_delay_ms is not None:
        document["retryDelayMs"] = refusal.retry_delay_ms
        headers = (*headers, (b"retry-after", b"%d" % max(1, -(-refusal.retry_delay_ms // 1000))))
    if refusal.reason is Reason.PAYLOAD_TOO_LARGE:
        headers = (*headers, (b"connection", b"close"))
    return answer(STATUSES[refusal.reason], document, *headers)
