"""Sockets that a proxy holds: it POSTs what happened on one (WebSocket-over-HTTP, GRIP), the answer is what it hears.

    child ~~WebSocket~~▶ Pushpin ──POST /ws──▶ here ──▶ parent.edge_turn ──▶ parent.connection, as for any socket

Between two requests this process holds nothing of a socket, so all of them may stop and start again. What a connection
has to remember travels in a header, sealed. Whatever is no such request goes to the application beneath.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from django.db import Error as DatabaseError

from lakehouse.limits import refusal
from lakehouse.limits.gate import Guest, Refusal
from lakehouse.limits.refusal import Response, rate_limit_headers
from lakehouse.models.parents import PARENT_NAME
from lakehouse.parent import door, edge_events, edge_trust, greeting, leases
from lakehouse.parent.arrivals import Admitted, Knock
from lakehouse.parent.edge_events import Event, Kind, NotEvents
from lakehouse.parent.edge_trust import Kept, NotOurs
from lakehouse.parent.edge_turn import Turn, answers_asleep
from lakehouse.parent.grants import STRANGERS, Refused
from lakehouse.parent.hibernation import BEATS_MAX
from lakehouse.parent.house import House, house
from lakehouse.parent.outflow import Send

log = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PATH = re.compile(rf"/ws(?:/(?P<parent>{PARENT_NAME}))?/?")
CONNECTION_ID = re.compile(r"[!-~]{1,200}")
AROUND_A_FRAME_BYTES = 64 * 1024


class BadRequest(Exception):
    """Not what a proxy sends; the message says what was wanted."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Visit:
    """What a proxy tells of one socket."""

    scope: Scope
    connection_id: str
    sealed: str
    events: list[Event]


class Edge:
    """An ASGI application over `http`. With a `key` only requests that a proxy signed with it are served."""

    def __init__(self, http: Application, *, key: str = "") -> None:
        self._http = http
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = PATH.fullmatch(scope["path"])
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if path is None or scope["method"] != "POST" or not _brings_events(headers):
            await self._http(scope, receive, send)
            return
        served = asyncio.ensure_future(
            self._serve(scope | {"url_route": {"kwargs": path.groupdict()}}, headers, receive, send)
        )
        try:
            await asyncio.shield(served)
        except asyncio.CancelledError:
            # The process stops, or the proxy hung up: whatever was handed in is answered first.
            await asyncio.wait([served], timeout=house().settings.drain_ms / 1000)
            raise

    async def _serve(self, scope: Scope, headers: dict[bytes, str], receive: Receive, send: Send) -> None:
        at_home = house()
        try:
            visit = await self._visit(scope, headers, receive, at_home.settings.frame_bytes_max)
            if visit is None:
                return
            if visit.events and visit.events[0].kind is Kind.OPEN:
                await _open(at_home, visit, send)
            else:
                await _go_on(at_home, visit, send)
        except BadRequest as exc:
            log.warning("a request for a socket was refused (HTTP %d): %s", exc.status, exc)
            await _respond(send, _json(exc.status, str(exc)))

    async def _visit(self, scope: Scope, headers: dict[bytes, str], receive: Receive, bytes_max: int) -> Visit | None:
        """What the proxy says, as far as it can be believed; None when it hung up. Raises BadRequest."""
        if self._key and not edge_trust.is_signed(headers.get(b"grip-sig", ""), self._key):
            raise BadRequest(403, "Grip-Sig is missing or wrong; sig_key of the proxy has to be EVODB_GRIP_KEY")
        connection_id = headers.get(b"connection-id", "")
        if not CONNECTION_ID.fullmatch(connection_id):
            raise BadRequest(400, "Connection-Id is missing or no name")
        body = await _body(receive, bytes_max=bytes_max + AROUND_A_FRAME_BYTES)
        try:
            events = None if body is None else edge_events.read(body)
        except NotEvents as exc:
            raise BadRequest(400, str(exc)) from None
        return None if events is None else Visit(scope, connection_id, headers.get(b"meta-evodb", ""), events)


async def _open(at_home: House, visit: Visit, send: Send) -> None:
    guest = await at_home.doorman.enter(visit.scope, evict=lambda: None)
    if isinstance(guest, Refusal):
        await _respond(send, refusal.response(guest))
        return
    try:
        knock = greeting.knock_of(visit.scope)
        admitted = await _admit(at_home, visit, knock, guest, send)
    finally:
        at_home.doorman.leave(guest)  # who holds the socket counts it
    if admitted is not None:
        turn = Turn(at_home, leases.of_proxy(visit.connection_id))
        turn.open(admitted, knock)
        await turn.serve(visit.events[1:])
        extension = (b"sec-websocket-extensions", edge_events.EXTENSION)
        await _answer(send, visit, turn, [extension, *rate_limit_headers(guest.headroom)])


async def _admit(at_home: House, visit: Visit, knock: Knock, guest: Guest, send: Send) -> Admitted | None:
    """Let the socket in, or answer the handshake as HTTP."""
    try:
        verdict = await at_home.admissions.judge(knock)
    except DatabaseError as exc:
        log.error("cannot look up a key, the child is asked to come back: %s", exc)
        await _respond(send, _json(503, "the journal is not available", (b"retry-after", b"1")))
        return None
    if isinstance(verdict, Refused):
        if verdict.reason in STRANGERS:
            at_home.doorman.key_failed(guest)
        await door.not_admitted(visit.scope | {"extensions": {refusal.EXTENSION: {}}}, _as_http(send), verdict)
        return None
    return verdict


async def _go_on(at_home: House, visit: Visit, send: Send) -> None:
    holder = leases.of_proxy(visit.connection_id)
    try:
        kept = edge_trust.unseal(visit.sealed, visit.connection_id)
    except NotOurs as exc:
        raise BadRequest(400, f"Meta-Evodb: {exc}") from None
    beats = kept.beats + len(visit.events)
    asleep = answers_asleep(visit.events, now_ms=at_home.now_ms()) if beats <= BEATS_MAX else None
    if asleep is None:
        turn = Turn(at_home, holder, kept.attachment)
        await turn.serve(visit.events)
        await _answer(send, visit, turn)
        return
    if kept.attachment.child_id is not None:
        at_home.presence.heard_at_proxy(kept.attachment.child_id)
    sealed = edge_trust.seal(Kept(kept.attachment, beats), visit.connection_id)
    await _respond(send, _told(asleep, sealed))


async def _answer(send: Send, visit: Visit, turn: Turn, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """What the child hears, and what the proxy keeps for the next time."""
    sealed = None if turn.kept is None else edge_trust.seal(Kept(turn.kept), visit.connection_id)
    await _respond(send, _told(turn.heard, sealed, headers))


def _told(heard: Sequence[Event], sealed: str | None, headers: Iterable[tuple[bytes, bytes]] = ()) -> Response:
    kept = [] if sealed is None else [(b"set-meta-evodb", sealed.encode())]
    return _response(200, edge_events.CONTENT_TYPE, edge_events.write(heard), [*kept, *headers])


def _json(status: int, error: str, *headers: tuple[bytes, bytes]) -> Response:
    return _response(status, b"application/json", orjson.dumps({"error": error}), headers)


def _response(status: int, kind: bytes, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Response:
    size = b"%d" % len(body)
    return Response(status, [(b"content-type", kind), (b"content-length", size), *headers], body)


async def _respond(send: Send, answer: Response) -> None:
    for message in answer.messages():
        await _as_http(send)(message)


def _as_http(send: Send) -> Send:
    """Answers to a handshake, as ASGI wants them of a WebSocket, for a request that is none."""

    async def renamed(message: dict[str, Any]) -> None:
        await send(message | {"type": message["type"].removeprefix("websocket.")})

    return renamed


async def _body(receive: Receive, *, bytes_max: int) -> bytes | None:
    """All of it; None when the proxy hung up. Raises BadRequest."""
    parts: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size_bytes += len(part)
        if size_bytes > bytes_max:
            raise BadRequest(413, f"more than {bytes_max} bytes; EVODB_FRAME_BYTES_MAX bounds them")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _brings_events(headers: dict[bytes, str]) -> bool:
    kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    return kind.encode("latin-1") == edge_events.CONTENT_TYPE
