"""Keeps one connection open as long as somebody wants it: dials, hands over to a link, waits, dials again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from rpc.backoff import delay_ms
from rpc.batch import MESSAGE_BYTES_MAX
from rpc.config import ChildConfig
from rpc.errors import AccessDeniedError, ConnectionError, LakehouseRpcError, ProtocolError
from rpc.link import Link

POLICY_VIOLATION, TOO_BIG = 1008, 1009
CLOSE_S = 1


@dataclass(frozen=True, slots=True)
class Address:
    """Whom to call and as whom. The token stays out of every text."""

    url: str
    child_id: str
    token: str | None = field(repr=False)

    @property
    def shown(self) -> str:
        """The address without what may be a key."""
        return self.url.partition("?")[0]

    def dial(self, config: ChildConfig) -> connect:
        # Header text is ASCII; any other name is told by `connect` alone.
        plain = self.child_id.isascii() and self.child_id.isprintable()
        headers = {"X-Client-ID": self.child_id} if plain else {}
        token = (self.token or "").strip()
        if not (token.isascii() and token.isprintable()):
            raise AccessDeniedError("the token has characters that no token has; pass what `evodb up` printed")
        if token:
            headers["Authorization"] = f"Bearer {token}"
        seconds = config.handshake_timeout_ms / 1000
        # No compression: it costs some 20 KiB a socket at the parent; no pings: the session has heartbeats of its own.
        return connect(
            self.url,
            additional_headers=headers,
            compression=None,
            max_size=MESSAGE_BYTES_MAX,
            open_timeout=seconds,
            close_timeout=CLOSE_S,
            ping_interval=None,
        )


@dataclass(slots=True)
class Keeper:
    """`attempts` counts dials since the parent last answered."""

    address: Address
    config: ChildConfig
    new_link: Callable[[ClientConnection], Link]
    chance: Callable[[], float]
    link: Link | None = None
    attempts: int = 0

    def wake(self) -> None:
        """There is something new for whatever connection there is."""
        if self.link is not None:
            self.link.wake()

    def added(self, entries: int, size_bytes: int) -> None:
        """So much more waits in the outbox."""
        if self.link is not None:
            self.link.added(entries, size_bytes)

    async def keep(self, lost: Callable[[LakehouseRpcError], None]) -> None:
        """Stay connected until cancelled. Raises when there is no use in going on; `lost` hears why each one ended."""
        while True:
            failure = await self._one_connection()
            lost(failure)
            if not failure.retryable or not self._may_try_again():
                raise failure
            await asyncio.sleep(self._pause_ms() / 1000)

    async def _one_connection(self) -> LakehouseRpcError:
        """Open a connection and use it to its end; returns why it ended."""
        self.attempts += 1
        try:
            socket = await self._dial()
            try:
                self.link = self.new_link(socket)
                await self.link.run()
            finally:
                if self.link is not None and self.link.is_welcome:
                    self.attempts = 0
                self.link = None
                await _hang_up(socket)
        except LakehouseRpcError as exc:
            return exc
        except (OSError, TimeoutError, InvalidURI, InvalidHandshake, ConnectionClosed) as exc:
            return self._reason(exc)
        raise AssertionError("a link never ends without a reason")

    async def _dial(self) -> ClientConnection:
        try:
            return await self.address.dial(self.config)
        except ValueError as exc:  # of urllib for the port, of the idna codec for the host
            if isinstance(exc, OSError):
                raise
            shown = self.address.shown
            raise AccessDeniedError(f"{shown} is no address of a parent ({exc}), wanted ws://host:port/ws") from None

    def _reason(self, exc: Exception) -> LakehouseRpcError:
        url = self.address.shown
        if isinstance(exc, InvalidStatus):
            return self._refused(exc.response.status_code)
        if isinstance(exc, InvalidURI):
            return AccessDeniedError(f"{url} is no address of a parent, wanted ws://host:port/ws or wss://...")
        if isinstance(exc, ConnectionClosed):
            if exc.rcvd is not None and exc.rcvd.code == POLICY_VIOLATION and exc.rcvd.reason:
                return AccessDeniedError(f"{url} ended the connection: {exc.rcvd.reason}")
            if exc.rcvd is not None and exc.rcvd.code == POLICY_VIOLATION:
                return AccessDeniedError(f"{url} does not let this key write as child {self.address.child_id!r}")
            if exc.rcvd is not None and exc.rcvd.code == TOO_BIG:
                return ProtocolError(
                    f"{url} takes no frames of {self.config.max_batch_bytes} bytes; lower max_batch_bytes of the child "
                    "or raise EVODB_FRAME_BYTES_MAX of the parent"
                )
            return ConnectionError(f"the connection to {url} closed: {exc}")
        return ConnectionError(f"cannot reach {url}: {str(exc) or type(exc).__name__}")

    def _refused(self, status: int) -> LakehouseRpcError:
        """A handshake answered with HTTP."""
        url, child = self.address.shown, self.address.child_id
        if status in (401, 403):
            return AccessDeniedError(
                f"{url} refused the handshake with HTTP {status}: the access key is missing, wrong "
                f"or not meant for child {child!r}, or the path is not /ws; `evodb up` prints both"
            )
        if status == 400:
            return AccessDeniedError(
                f"{url} refused the handshake with HTTP 400: it cannot store the name of child {child!r}, of its shard "
                "or of the parent; give them names of 1 to 500 printable characters"
            )
        if status == 429:
            return ConnectionError(f"{url} takes no more connections at the moment (HTTP 429)")
        return ConnectionError(f"{url} refused the handshake with HTTP {status}; is it a parent, and its path /ws?")

    def _may_try_again(self) -> bool:
        limit = self.config.max_reconnect_attempts
        return self.config.auto_reconnect and (not limit or self.attempts < limit)

    def _pause_ms(self) -> int:
        return delay_ms(
            max(1, self.attempts),
            initial_ms=self.config.initial_retry_delay_ms,
            max_ms=self.config.max_retry_delay_ms,
            multiplier=self.config.backoff_multiplier,
            chance=self.chance(),
        )


async def _hang_up(socket: ClientConnection) -> None:
    """Close as the protocol wants it, or at once when the other side takes no data any more."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await socket.close()
    except TimeoutError:
        socket.transport.abort()
