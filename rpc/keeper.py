"""Keeps one connection open as long as somebody wants it: dials, hands over to a link, waits, dials again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from rpc.address import Address
from rpc.backoff import delay_ms
from rpc.config import ChildConfig
from rpc.dialling import CLOSE_S, dial
from rpc.errors import LakehouseRpcError
from rpc.link import Link
from rpc.unreached import reason


@dataclass(slots=True)
class Keeper:
    """`attempts` counts dials since the parent last answered."""

    address: Address
    config: ChildConfig
    new_link: Callable[[ClientConnection], Link]
    chance: Callable[[], float]
    link: Link | None = None
    attempts: int = 0
    hang_up_by_s: float | None = None
    """When, by the loop's clock, a connection is to be closed, whatever the other side says to that."""

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
            socket = await dial(self.address, self.config)
            try:
                self.link = self.new_link(socket)
                await self.link.run()
            finally:
                if self.link is not None and self.link.is_welcome:
                    self.attempts = 0
                self.link = None
                await _hang_up(socket, by_s=self.hang_up_by_s)
        except LakehouseRpcError as exc:
            return exc
        except (OSError, TimeoutError, WebSocketException) as exc:
            return reason(exc, self.address, self.config)
        raise AssertionError("a link never ends without a reason")

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


async def _hang_up(socket: ClientConnection, *, by_s: float | None) -> None:
    """Close as the protocol wants it, or at once when the other side takes no data any more."""
    latest_s = asyncio.get_running_loop().time() + CLOSE_S
    try:
        async with asyncio.timeout_at(latest_s if by_s is None else min(by_s, latest_s)):
            await socket.close()
    except TimeoutError:
        socket.transport.abort()
