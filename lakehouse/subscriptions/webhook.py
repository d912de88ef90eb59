"""One POST to an address of a stranger's choosing: resolved once, checked, and connected to as checked.

A name may say one address when it is checked and another when it is connected to, so between the two nobody asks it
again; all addresses it has must be allowed, and what the socket says it reached is compared once more, each time a
connection that was kept is used, too. No redirect is followed and no proxy of the environment is used. The whole of it,
names and handshakes included, has one deadline.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import h11

from lakehouse.subscriptions import guard, names, retries
from lakehouse.subscriptions.connections import Answer, Connection, Kept, Origin, Stale
from lakehouse.subscriptions.guard import Network
from lakehouse.subscriptions.names import Resolve
from lakehouse.subscriptions.retries import Outcome
from rpc.retry_after import retry_after_ms

ERROR_CHARS_MAX = 500
KNOWN_MAX = 1000


class NotAllowed(Exception):
    """The target is where no webhook may go."""


async def post(
    url: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    networks: tuple[Network, ...],
    timeout_ms: int,
    now_ms: int,
    resolve: Resolve = names.resolve,
    kept: Kept | None = None,
) -> tuple[Outcome, bytes]:
    """What became of it, and what was answered. Raises nothing but CancelledError."""
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            answer = await _Posting(url, networks, resolve, kept).send(list(headers), body)
    except TimeoutError:
        return Outcome(False, error=f"no answer within {timeout_ms} ms"), b""
    except NotAllowed as exc:
        return Outcome(False, error=str(exc)), b""
    except socket.gaierror as exc:
        return Outcome(
            False, error=f"the name {urlsplit(url).hostname} was not found: {exc.strerror}"[:ERROR_CHARS_MAX]
        ), b""
    except (OSError, ValueError, h11.ProtocolError, ssl.SSLError) as exc:
        return Outcome(False, error=f"{type(exc).__name__}: {exc}"[:ERROR_CHARS_MAX]), b""
    if 200 <= answer.status < 300:
        return Outcome(True, answer.status), answer.body
    text = answer.body[:ERROR_CHARS_MAX].decode(errors="replace")
    if 300 <= answer.status < 400:
        text = "a redirect, and none is followed; the target has to be where it answers"
    wait_ms = retry_after_ms(answer.retry_after or "", now_ms=now_ms, most_ms=retries.MOST_MS)
    return Outcome(False, answer.status, f"answered {answer.status}: {text}".strip(": "), wait_ms), answer.body


class _Where(NamedTuple):
    origin: Origin
    host: str
    target: str


@lru_cache(KNOWN_MAX)
def _where(url: str) -> _Where:
    """Raises ValueError."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    origin = (is_tls, parts.hostname or "", parts.port or (443 if is_tls else 80))
    return _Where(origin, parts.netloc, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


class _Posting:
    """To one target, over a connection that was kept for it or a new one."""

    def __init__(self, url: str, networks: tuple[Network, ...], resolve: Resolve, kept: Kept | None) -> None:
        self._origin, self._host, self._target = _where(url)
        self._networks, self._resolve, self._kept = networks, resolve, kept

    async def send(self, headers: list[tuple[str, str]], body: bytes) -> Answer:
        former = None if self._kept is None else self._kept.take(self._origin)
        if former is not None:
            try:
                return await self._over(former, headers, body)
            except Stale:
                pass
        fresh = await self._connection()
        return await self._over(fresh, headers if self._kept else [*headers, ("connection", "close")], body)

    async def _over(self, one: Connection, headers: list[tuple[str, str]], body: bytes) -> Answer:
        try:
            if not guard.is_allowed(one.address, self._networks):
                raise NotAllowed(f"{self._origin[1]} is at {one.address}, where no webhook may go")
            answer = await one.post(self._host, self._target, headers, body)
        except BaseException:
            one.close()
            raise
        if self._kept is None:
            one.close()
        else:
            self._kept.keep(one)
        return answer

    async def _connection(self) -> Connection:
        _, host, port = self._origin
        addresses = await self._resolve(host, port)
        if not addresses:
            raise OSError(f"{host} has no address")
        for address in addresses:
            if not guard.is_allowed(address, self._networks):
                raise NotAllowed(f"{host} is at {address}, where no webhook may go; {guard.how_to_allow(address)}")
        return await _connect(self._origin, addresses)


async def _connect(origin: Origin, addresses: Sequence[str]) -> Connection:
    """To the first of these that takes it; they are literals, so nobody is asked for a name any more."""
    is_tls, host, port = origin
    tls: dict[str, Any] = {"ssl": _tls(), "server_hostname": host} if is_tls else {}
    loop, failure = asyncio.get_running_loop(), None
    for address in addresses:
        try:
            _, made = await loop.create_connection(lambda: Connection(origin), address, port, **tls)
        except OSError as exc:
            failure = exc
        else:
            return made
    assert failure is not None
    raise failure


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
