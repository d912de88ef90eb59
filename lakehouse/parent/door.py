"""How a handshake is answered; a refusal is HTTP where the server can, a closed socket where it cannot."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import orjson
from django.db import Error as DatabaseError

from lakehouse.limits.gate import Guest, Refusal
from lakehouse.limits.refusal import EXTENSION, Response, rate_limit_headers, response
from lakehouse.parent import access
from lakehouse.parent.arrivals import Admitted, Knock
from lakehouse.parent.grants import STRANGERS, Refused, shown
from lakehouse.parent.house import House
from lakehouse.parent.outflow import Send

log = logging.getLogger(__name__)

POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013
SAID = {
    400: "the name of the parent, the child or the shard cannot be used",
    401: "the access key is missing, wrong, revoked or expired",
    403: "the access key is not meant for this parent, child or namespace",
}
"""What a stranger may hear; the log knows more."""


async def admit(house: House, guest: Guest, knock: Knock, scope: dict[str, Any], send: Send) -> Admitted | None:
    """Answer a handshake that is not let in. A refused one never becomes a WebSocket."""
    try:
        verdict = await house.admissions.judge(knock)
    except DatabaseError as exc:
        log.error("cannot look up a key, the child is asked to come back: %s", exc)
        await accept(guest, send)
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
        return None
    if isinstance(verdict, Refused):
        if verdict.reason in STRANGERS:
            house.doorman.key_failed(guest)
        await not_admitted(scope, send, verdict)
        return None
    if full := await show_key(house, guest, verdict, knock):
        await too_many(scope, send, full)
        return None
    return verdict


async def accept(guest: Guest, send: Send) -> None:
    await send({"type": "websocket.accept", "headers": rate_limit_headers(guest.headroom)})


async def show_key(house: House, guest: Guest, admitted: Admitted, knock: Knock) -> Refusal | None:
    """Count a connection by its key; why there is no room for it, if so."""
    if admitted.key_id is None:
        return None
    child = None if knock.child is None else f"{admitted.parent_id}/{knock.child}"
    connections_max = admitted.limits.connections_max
    refusal = await house.doorman.show_key(guest, admitted.key_id, connections_max=connections_max, child=child)
    if refusal is None:
        return None
    name = await _name_of(house, admitted.key_id)
    why = f"the access key {name} has as many open connections as its limit connections_max allows ({connections_max})"
    who = "" if knock.child is None else f" of child {shown(knock.child)}"
    log.warning("a handshake%s at parent %s was refused (%s): %s", who, shown(knock.parent), refusal.reason, why)
    return replace(refusal, message=why)


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


async def _name_of(house: House, key_id: int) -> str:
    """Asked for by the few that are refused, so that no connection has to remember it."""
    try:
        key = await house.intake.run(lambda: access.by_id(key_id, now_ms=house.now_ms()))
    except DatabaseError:
        key = None
    return f"number {key_id}" if key is None else str(key)


async def _refuse(scope: dict[str, Any], send: Send, answer: Response, code: int) -> None:
    if EXTENSION not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": code})
        return
    for message in answer.messages():
        await send(message)
