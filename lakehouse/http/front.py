"""In front of Django: the requests that come too often for its middleware, served without a thread.

Django's own stack costs a thread and a dozen hops per request: 230 requests/s, against 5600 without it (uvicorn, an
empty answer, 2 cores), and 190 against 810 for POST /cdc. Whatever is not plainly ours here (another method, a host
that `EVODB_ALLOWED_HOSTS` does not name) is Django's to answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from lakehouse.events import ingest
from lakehouse.http import cdc
from lakehouse.http.cdc import ReadBody
from lakehouse.limits.refusal import Response
from lakehouse.parent.house import House, house
from lakehouse.parent.outflow import Send

Receive = Callable[[], Awaitable[dict[str, Any]]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
Answer = Callable[[dict[str, Any], ReadBody, House], Awaitable[Response]]

OK = Response(200, [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"2")], b"OK")
LOCAL_HOSTS = (".localhost", "127.0.0.1", "[::1]")
"""What Django allows in debug mode when nothing else is."""


class Gone(Exception):
    """The client hung up before its request was here."""


class Front:
    """An ASGI application over Django's."""

    def __init__(self, django: Application) -> None:
        self._django = django

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        answer = ANSWERS.get((scope["method"], scope["path"]))
        if scope["path"] == "/health" and scope["method"] in ("GET", "HEAD") and _is_our_host(scope):
            await _send(send, OK, is_head=scope["method"] == "HEAD")
        elif answer is None or not _is_our_host(scope):
            await self._django(scope, receive, send)
        else:
            served = asyncio.ensure_future(_serve(answer, scope, receive, send))
            try:
                await asyncio.shield(served)
            except asyncio.CancelledError:
                # The process stops, or the client hung up: what was handed in is answered first.
                await asyncio.wait([served], timeout=house().settings.drain_ms / 1000)
                raise


ANSWERS: dict[tuple[str, str], Answer] = {
    ("POST", "/cdc"): cdc.answer,
    **{("POST", path): ingest.answer for path in ingest.PATHS},
}


async def _serve(answer: Answer, scope: dict[str, Any], receive: Receive, send: Send) -> None:
    async def read_body(bytes_max: int) -> bytes:
        return await _read(receive, bytes_max)

    try:
        response = await answer(scope, read_body, house())
    except Gone:
        return
    await _send(send, response)


async def _read(receive: Receive, bytes_max: int) -> bytes:
    """Raises Gone."""
    chunks: list[bytes] = []
    size = 0
    while size <= bytes_max:
        message = await receive()
        if message["type"] != "http.request":
            raise Gone
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if not message.get("more_body", False):
            break
    return b"".join(chunks)


async def _send(send: Send, response: Response, *, is_head: bool = False) -> None:
    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
    await send({"type": "http.response.body", "body": b"" if is_head else response.body})


def _is_our_host(scope: dict[str, Any]) -> bool:
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    allowed = settings.ALLOWED_HOSTS or (LOCAL_HOSTS if settings.DEBUG else ())
    return _is_allowed(host, tuple(allowed))


@lru_cache(maxsize=100)
def _is_allowed(host: bytes, allowed: tuple[str, ...]) -> bool:
    domain, _ = split_domain_port(host.decode("latin-1"))
    return bool(domain) and validate_host(domain, allowed)
