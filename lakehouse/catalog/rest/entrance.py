"""Where clients of the catalog come in: who they are, what they ask for, a thread that does it, and the answer.

    route ─ doorman ─ key ─ scope ─ body ─ seat ─ thread ─ answer

The lake's libraries (60 MiB) are loaded by the first request that gets as far as a seat, not by the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote
from weakref import WeakKeyDictionary

import orjson
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from lakehouse.catalog.rest import routes, tokens
from lakehouse.catalog.rest.problems import Answer, Problem, unavailable
from lakehouse.catalog.rest.routes import Operation, Route
from lakehouse.catalog_choice import elsewhere
from lakehouse.http.answers import KEY_SAID
from lakehouse.http.keys import weigh
from lakehouse.http.visits import at_the_door
from lakehouse.journal.intake import Intake
from lakehouse.limits.gate import Lane
from lakehouse.limits.refusal import Response
from lakehouse.parent.grants import ADMIN, QUERY, SCOPES, Grant, Refused, token_of
from lakehouse.parent.house import House, house

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 16 * 1024 * 1024
SEATS = 8
"""Requests of a process that work at once, each in a thread; the others wait for a seat."""
WAITING_MAX = 200
EVERYBODY = Grant(None, "everybody", scopes=SCOPES)
"""An open house asks nobody, neither for reading nor for writing."""
KINDS = {
    400: "BadRequestException",
    401: "NotAuthorizedException",
    403: "ForbiddenException",
    429: "SlowDownException",
    503: "ServiceUnavailableException",
}
T = TypeVar("T")


@dataclass(slots=True)
class Seats:
    """Those of one process."""

    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SEATS))
    waiting: int = 0


@csrf_exempt
async def entrance(request: HttpRequest) -> HttpResponse:
    """No cookie is read, so there is nothing to forge."""
    try:
        answer = await _serve(request, house())
    except Problem as exc:
        answer = exc.answer
    body = b"" if request.method == "HEAD" else answer.body
    response = HttpResponse(body, status=answer.status, headers={**answer.headers, "x-content-type-options": "nosniff"})
    if not answer.body:
        del response.headers["content-type"]
    response._has_been_logged = True  # type: ignore[attr-defined]  # "Is there a table?" "No." is not worth a warning
    return response


async def _serve(request: HttpRequest, opened: House) -> Answer:
    route = routes.find(request.method or "", _raw_path(request))
    if opened.settings.catalog:
        raise Problem(404, "NotFoundException", elsewhere(opened.settings.catalog))
    headers = {name.lower(): value for name, value in request.headers.items()}
    if route.operation is Operation.TOKEN:
        return await _token(request, opened, headers)
    if opened.is_closing and route.operation not in routes.READING:
        raise unavailable("this process stops; another one takes over")
    token = token_of(headers, request.GET.dict())
    grant = await _let_in(request, opened, lambda now_ms: _grant(token, route, is_open=_is_open(opened), now_ms=now_ms))
    body = _body(request)
    async with _seat(opened):
        return await sync_to_async(_perform)(route, opened, grant, request.GET.dict(), headers, body)


async def _token(request: HttpRequest, opened: House, headers: Mapping[str, str]) -> Answer:
    form = request.read(tokens.FORM_BYTES_MAX + 1)
    secret = "" if _is_open(opened) else tokens.secret_of(form, headers)
    try:
        granted = await _let_in(
            request, opened, lambda now_ms: _key_id(secret, is_open=_is_open(opened), now_ms=now_ms)
        )
    except Problem as exc:
        raise tokens.refused("invalid_client", exc.message, 401) if exc.status == 401 else exc from None
    return tokens.issue(granted, now_ms=opened.now_ms(), lifetime_ms=opened.settings.catalog_token_ms)


async def _let_in(request: HttpRequest, opened: House, judge: Callable[[int], T | Refused | Problem]) -> T:
    """What `judge` grants, asked where the doorman counts. Raises Problem."""
    scope = request.scope  # type: ignore[attr-defined]  # an ASGI request
    verdict: T | Problem | Response = await at_the_door(
        opened, scope, lambda: judge(opened.now_ms()), lane=Lane.CATALOG
    )
    if isinstance(verdict, Problem):
        raise verdict
    if isinstance(verdict, Response):
        raise _sent_away(verdict)
    return verdict


def _grant(token: str, route: Route, *, is_open: bool, now_ms: int) -> Grant | Refused | Problem:
    """A key that may write may read. Metadata is somebody else's promise: who only sends events writes none of it."""
    if is_open:
        return EVERYBODY
    try:
        key = tokens.bearer(token, now_ms=now_ms)
    except tokens.Expired:
        return Problem(419, "AuthenticationTimeoutException", "the token has expired, ask /v1/oauth/tokens for another")
    scopes = (QUERY, ADMIN) if route.operation in routes.READING else (ADMIN,)
    return weigh(key, scopes, parent=None, now_ms=now_ms)


def _key_id(secret: str, *, is_open: bool, now_ms: int) -> int | Refused | Problem:
    if is_open:
        return tokens.NOBODY
    try:
        key = tokens.bearer(secret, now_ms=now_ms)
    except tokens.Expired:
        return tokens.refused("invalid_grant", "the token has expired, show the access key")
    if isinstance(key, Refused):
        log.warning("a token was refused (%s): %s", key.reason, key.why)
        return key
    return key.pk


def _sent_away(response: Response) -> Problem:
    """What the doorman says, in the words of the specification."""
    kept = {"retry-after", "www-authenticate", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}
    headers = {name.decode(): value.decode() for name, value in response.headers if name.decode() in kept}
    said = orjson.loads(response.body)
    message = str(said["error"]) if response.status in KEY_SAID else said.get("message") or str(said["error"])
    return Problem(response.status, KINDS.get(response.status, "BadRequestException"), message, headers)


def _body(request: HttpRequest) -> bytes:
    """Raises Problem. What is longer is not looked at."""
    body = request.read(BODY_BYTES_MAX + 1)
    if len(body) > BODY_BYTES_MAX:
        raise Problem(413, "BadRequestException", f"the body has more than {BODY_BYTES_MAX} bytes, wanted fewer")
    return body


def _raw_path(request: HttpRequest) -> bytes:
    scope = request.scope  # type: ignore[attr-defined]  # an ASGI request
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    path: bytes = raw.partition(b"?")[0]
    return path.removeprefix(scope.get("root_path", "").encode())


def _is_open(opened: House) -> bool:
    return opened.settings.open


@asynccontextmanager
async def _seat(opened: House) -> AsyncIterator[None]:
    """One of the few threads. Raises Problem when too many wait for one."""
    seats = _seats.setdefault(opened.intake, Seats())
    if seats.waiting >= WAITING_MAX:
        raise unavailable(f"{WAITING_MAX} requests wait for the catalog already")
    seats.waiting += 1
    try:
        await seats.free.acquire()
    finally:
        seats.waiting -= 1
    try:
        yield
    finally:
        seats.free.release()


def _perform(
    route: Route, opened: House, grant: Grant, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
) -> Answer:
    from lakehouse.catalog.rest import operations

    return operations.perform(route, settings=opened.settings, grant=grant, query=query, headers=headers, body=body)


_seats: WeakKeyDictionary[Intake, Seats] = WeakKeyDictionary()
