"""How a handshake is refused: as HTTP where the server can, with a closed socket where it cannot."""

from __future__ import annotations

from typing import Any

import orjson

from lakehouse.limits.gate import Refusal
from lakehouse.limits.refusal import EXTENSION, Response, response
from lakehouse.parent.grants import Refused
from lakehouse.parent.outflow import Send

POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013
SAID = {
    400: "the name of the parent, the child or the shard cannot be used",
    401: "the access key is missing, wrong, revoked or expired",
    403: "the access key is not meant for this parent, child or namespace",
}
"""What a stranger may hear; the log knows more."""


async def too_many(scope: dict[str, Any], send: Send, refusal: Refusal) -> None:
    await _refuse(scope, send, response(refusal), TRY_AGAIN_LATER)


async def not_admitted(scope: dict[str, Any], send: Send, refused: Refused) -> None:
    status = refused.http_status
    body = orjson.dumps({"error": SAID[status]})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await _refuse(scope, send, Response(status, headers, body), POLICY_VIOLATION)


async def _refuse(scope: dict[str, Any], send: Send, answer: Response, code: int) -> None:
    if EXTENSION not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": code})
        return
    for message in answer.messages():
        await send(message)
