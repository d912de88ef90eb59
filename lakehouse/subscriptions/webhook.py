"""One POST to an address of a stranger's choosing: resolved once, checked, and connected to as checked.

A name may say one address when it is checked and another when it is connected to, so between the two nobody asks it
again; all addresses it has must be allowed, and what the socket says it reached is compared once more. No redirect is
followed and no proxy of the environment is used. The whole of it, names and handshakes included, has one deadline.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

import h11

from lakehouse.subscriptions import guard, retries
from lakehouse.subscriptions.guard import Network
from lakehouse.subscriptions.retries import Outcome

ANSWER_BYTES_MAX = 256 * 1024
READ_BYTES = 16 * 1024
RESOLVERS_MAX = 64
ERROR_CHARS_MAX = 500
USER_AGENT = "EvoDB"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class NotAllowed(Exception):
    """The target is where no webhook may go."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    retry_after: str
    body: bytes


async def post(
    url: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    networks: Sequence[Network],
    timeout_ms: int,
    now_ms: int,
    resolve: Resolve | None = None,
) -> tuple[Outcome, bytes]:
    """What became of it, and what was answered. Raises nothing but CancelledError."""
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            answer = await _exchange(url, headers, body, networks, resolve or _resolve)
    except TimeoutError:
        return Outcome(False, error=f"no answer within {timeout_ms} ms"), b""
    except NotAllowed as exc:
        return Outcome(False, error=str(exc)), b""
    except (OSError, ValueError, h11.ProtocolError, ssl.SSLError) as exc:
        return Outcome(False, error=f"{type(exc).__name__}: {exc}"[:ERROR_CHARS_MAX]), b""
    if 200 <= answer.status < 300:
        return Outcome(True, answer.status), answer.body
    text = answer.body[:ERROR_CHARS_MAX].decode(errors="replace")
    if 300 <= answer.status < 400:
        text = "a redirect, and none is followed; the target has to be where it answers"
    wait_ms = retries.retry_after_ms(answer.retry_after, now_ms=now_ms) if answer.retry_after else None
    return Outcome(False, answer.status, f"answered {answer.status}: {text}".strip(": "), wait_ms), answer.body


async def _exchange(
    url: str, headers: Iterable[tuple[str, str]], body: bytes, networks: Sequence[Network], resolve: Resolve
) -> Answer:
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    addresses = await resolve(host, port)
    if not addresses:
        raise OSError(f"{host} has no address")
    for address in addresses:
        if not guard.is_allowed(address, networks):
            raise NotAllowed(f"{host} is at {address}, where no webhook may go (EVODB_WEBHOOK_NETWORKS)")
    reader, writer = await _connect(addresses, port, host if is_tls else None)
    try:
        reached = writer.get_extra_info("peername")
        if reached is None or not guard.is_allowed(reached[0], networks):
            raise NotAllowed(f"{host} is at {reached and reached[0]}, where no webhook may go")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return await _talk(reader, writer, parts.netloc, target, headers, body)
    finally:
        writer.transport.abort()  # a polite end would wait for somebody who may never come to it


async def _resolve(host: str, port: int) -> Sequence[str]:
    """By threads of their own: a name server that is silent keeps no other work of this process waiting."""
    if guard.is_address(host):
        return [host]
    found = await asyncio.get_running_loop().run_in_executor(
        _resolvers(), lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    return list(dict.fromkeys(str(row[4][0]) for row in found))


@cache
def _resolvers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(RESOLVERS_MAX, thread_name_prefix="evodb-names")


async def _connect(
    addresses: Sequence[str], port: int, tls_name: str | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the first of these that takes it; they are literals, so nobody is asked for a name any more."""
    failure: OSError | None = None
    for address in addresses:
        try:
            if tls_name is None:
                return await asyncio.open_connection(address, port)
            return await asyncio.open_connection(address, port, ssl=_tls(), server_hostname=tls_name)
        except OSError as exc:
            failure = exc
    assert failure is not None
    raise failure


async def _talk(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    host: str,
    target: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
) -> Answer:
    talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=READ_BYTES)
    fixed = [("host", host), ("connection", "close"), ("content-length", str(len(body))), ("user-agent", USER_AGENT)]
    request = h11.Request(method="POST", target=target, headers=[*fixed, *headers])
    for part in (request, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(talk.send(part) or b"")
    await writer.drain()
    status, retry_after, answered = 0, "", bytearray()
    while True:
        event = talk.next_event()
        if event is h11.NEED_DATA:
            talk.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Response):
            status = event.status_code
            retry_after = next((value.decode("latin-1") for name, value in event.headers if name == b"retry-after"), "")
        elif isinstance(event, h11.Data):
            answered += event.data
        if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed) or len(answered) > ANSWER_BYTES_MAX:
            return Answer(status, retry_after, bytes(answered[:ANSWER_BYTES_MAX]))


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
