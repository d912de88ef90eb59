"""A first word with a parent: a socket that is opened for one question, and in words why that does not work."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException

from rpc.address import Address
from rpc.commands.endings import UsageError
from rpc.commands.options import EXAMPLE
from rpc.config import DEFAULT_CHILD_CONFIG
from rpc.dialling import dial
from rpc.errors import AccessDeniedError, ConnectionError
from rpc.unreached import POLICY_VIOLATION, reason

BAD_REQUEST, DENIED, NOT_FOUND, REDIRECTS = 400, (401, 403), 404, range(300, 400)


class NoParentError(ConnectionError):
    """Somebody answered who is no parent."""

    retryable = False


@asynccontextmanager
async def opened(address: Address, *, within_s: float) -> AsyncIterator[ClientConnection]:
    """A socket to a parent; whoever asks something gives the answer as long.

    Raises AccessDeniedError, NoParentError, or ConnectionError when the parent is away.
    """
    url = address.shown
    try:
        async with asyncio.timeout(within_s):
            socket = await dial(address, DEFAULT_CHILD_CONFIG)
        async with socket:
            yield socket
    except InvalidStatus as exc:
        if exc.response.status_code in REDIRECTS:
            raise reason(exc, address, DEFAULT_CHILD_CONFIG) from None
        raise _refused(address, exc.response.status_code, _told(exc.response.body)) from None
    except InvalidURI:
        raise UsageError(f"--parent is {url!r}, which is no address; type --parent {EXAMPLE}") from None
    except ConnectionClosed as exc:
        if exc.rcvd is not None and exc.rcvd.code == POLICY_VIOLATION:
            raise AccessDeniedError(f"{url} does not let this key in as child {address.child_id!r}") from None
        raise ConnectionError(f"the connection to {url} closed: {exc}") from None
    except TimeoutError:
        raise ConnectionError(f"cannot reach {url}: no answer within {within_s:g} s{_without_tls(url)}") from None
    except (OSError, WebSocketException) as exc:
        raise ConnectionError(f"{reason(exc, address, DEFAULT_CHILD_CONFIG)}{_without_tls(url)}") from None


async def refuses_nobody(address: Address, *, within_s: float) -> None:
    """Return when this child would be let in, or the parent is away. Raises AccessDeniedError, NoParentError."""
    try:
        async with opened(address, within_s=within_s):
            pass
    except ConnectionError as exc:
        if not exc.retryable:
            raise


def _without_tls(url: str) -> str:
    return f"; a parent without TLS is at {url.replace('wss:', 'ws:', 1)}" if url.startswith("wss:") else ""


def _refused(address: Address, status: int, reason: str) -> ConnectionError:
    url = urlsplit(address.shown)
    told = f"{address.shown} refused the handshake with HTTP {status}"
    if status in DENIED and re.search(r"/ws(/[^/]+)?/?$", url.path):
        key = "wrong, revoked or not meant for this child" if address.token else "missing"
        return AccessDeniedError(f"{told}: {reason or f'the access key of child {address.child_id!r} is {key}'}")
    if status == BAD_REQUEST and reason:
        return NoParentError(f"{told}: {reason}; type --child NAME with letters and digits")
    if status in (*DENIED, NOT_FOUND):
        return NoParentError(f"{told}, a parent is at /ws; type --parent {url.scheme}://{url.netloc}/ws")
    return ConnectionError(f"{address.shown} answered with HTTP {status}{reason and f': {reason}'}, wanted a WebSocket")


def _told(body: bytes | bytearray | None) -> str:
    """What a parent says about its refusal, if it does."""
    try:
        return str(json.loads(body or b"")["error"])
    except (ValueError, LookupError, TypeError):
        return ""
