"""A client behind a circuit breaker: while the parent is known to be away, what needs it fails at once.

`connect`, `send_batch` and `request_flush` need the parent and pass through the circuit. `send` and `send_many` need
the outbox alone: they work whatever the circuit says, and what they keep leaves with the next connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Self

from rpc.circuit import Call, Circuit, CircuitBreakerRpcConfig, CircuitBreakerRpcStats, Verdict, told_by
from rpc.circuit_breaker import CircuitState, MonotonicTimeProvider
from rpc.client import LakehouseRpcClient, Wait
from rpc.create import create_rpc_client
from rpc.errors import ConnectionError, FlushError, LakehouseRpcError
from rpc.given import EntryLike
from rpc.messages import FlushResult
from rpc.outbox import Outbox
from rpc.outcome import ClientState, RpcSendResult
from rpc.report import Status

__all__ = ["CircuitBreakerRpcClient", "create_circuit_breaker_rpc_client"]


class CircuitBreakerRpcClient:
    """A LakehouseRpcClient behind a circuit, in the same event loop; `client` may be used directly as well."""

    def __init__(
        self,
        client: LakehouseRpcClient,
        config: CircuitBreakerRpcConfig | None = None,
        *,
        time_provider: MonotonicTimeProvider | None = None,
    ) -> None:
        self.client = client
        self._config = config or CircuitBreakerRpcConfig()
        self._circuit = Circuit(self._config, child_id=client.child_id, time_provider=time_provider)
        self._denial: LakehouseRpcError | None = None
        self._is_leaving = False

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def child_id(self) -> str:
        return self.client.child_id

    @property
    def state(self) -> ClientState:
        return self.client.state

    @property
    def outbox(self) -> Outbox:
        return self.client.outbox

    @property
    def circuit_state(self) -> CircuitState:
        return self._circuit.breaker.state

    @property
    def is_circuit_open(self) -> bool:
        """Whether a call that needs the parent would be refused without asking it."""
        return self._circuit.is_open

    def reset_circuit(self) -> None:
        """Close the circuit by hand: the parent is known to be back."""
        self._circuit.breaker.reset()
        self._circuit.announce()

    def trip_circuit(self) -> None:
        """Open the circuit by hand: the parent is known to go away."""
        self._circuit.breaker.trip()
        self._circuit.announce()

    async def connect(self) -> None:
        """Return when the parent knows this child. Raises CircuitBreakerError at once while the circuit is open.

        Else what the client raises, or ConnectionError after `call_timeout_ms`; the client goes on dialling then.
        """
        with self._call() as call:
            self._denial = None
            if self.state is ClientState.CONNECTED:
                call.verdict = Verdict.NOTHING  # nobody was asked
            await self._reach()

    async def send(self, entry: EntryLike) -> None:
        """Keep one change; it is on disk when this returns. Works while the circuit is open."""
        await self.client.send(entry)

    async def send_many(self, entries: Iterable[EntryLike]) -> int:
        """Keep these changes, all or none; returns how many were new. Works while the circuit is open."""
        return await self.client.send_many(entries)

    async def send_batch(self, entries: Iterable[EntryLike], *, wait: Wait = "durable") -> RpcSendResult:
        """Keep these changes, send them at once, and return when the parent has them or refused them for good.

        Raises CircuitBreakerError at once while the circuit is open, and ConnectionError without a connection, both
        before anything is kept or `entries` is read: handing the same in again makes no double. Use `send_many` to
        have changes kept all the same. A connection that ends for good after they were kept is no error, but a result
        that says `kept`. With `wait="persisted"` a probe holds up the other calls until the parent's next flush.
        """
        self._ready()
        with self._call() as call:
            await self._reach()
            acked = self._acked()
            result = await self.client.send_batch(entries, wait=wait)
            if result.kept:
                call.verdict = self._told_by_silence(acked) if result.cause is None else told_by(result.cause)
            return result

    async def request_flush(self) -> FlushResult:
        """Send what is kept, have the parent write it all into tables, and return when it has.

        Raises CircuitBreakerError at once while the circuit is open. Else what the client raises, ConnectionError
        without a connection, or FlushError after `flush_timeout_ms`.
        """
        self._ready()
        with self._call() as call:
            await self._reach()
            acked, limit_ms = self._acked(), self._config.flush_timeout_ms
            try:
                async with asyncio.timeout(limit_ms / 1000):
                    return await self.client.request_flush()
            except TimeoutError:
                call.verdict = self._told_by_silence(acked)
                text = f"not flushed within {limit_ms} ms; what is kept is sent, and flushed when it is due"
                raise FlushError(text) from None

    async def drain(self) -> None:
        """Send everything kept and return when all of it is acknowledged or a dead letter, however long that takes.

        The circuit has no part in it.
        """
        await self.client.drain()

    async def disconnect(self, *, timeout_ms: int = 5000) -> None:
        """Send what is kept if the parent takes it in time, say goodbye, and stop every timer."""
        with self._leaving():
            await self.client.disconnect(timeout_ms=timeout_ms)

    async def close(self) -> None:
        """Disconnect, and close the outbox if the client opened it."""
        with self._leaving():
            await self.client.close()

    def get_stats(self) -> CircuitBreakerRpcStats:
        circuit = dataclasses.asdict(self._circuit.breaker.get_stats())
        return CircuitBreakerRpcStats(**circuit, child_id=self.child_id, client=self.client.get_stats())

    def status(self) -> Status:
        """The integration guide's picture of a connection."""
        return self.client.status()

    def metrics_text(self) -> str:
        """Prometheus lines, the integration guide's names first."""
        return self.client.metrics_text()

    def _ready(self) -> None:
        """Raise what only `connect` can mend; asking a parent again that refused this child is useless."""
        if self.state is ClientState.DISCONNECTED:
            raise ConnectionError("not connected; call connect() first, or send_many() to have changes kept")
        if self._denial is not None and self.state is ClientState.FAILED:
            raise self._denial

    @contextlib.contextmanager
    def _leaving(self) -> Iterator[None]:
        """What calls hear within this is our own doing."""
        self._is_leaving = True
        try:
            yield
        finally:
            self._is_leaving = False

    @contextlib.contextmanager
    def _call(self) -> Iterator[Call]:
        with self._circuit.call() as call:
            try:
                yield call
            finally:
                if self._is_leaving or self.state is ClientState.DISCONNECTED:
                    call.verdict = Verdict.NOTHING

    async def _reach(self) -> None:
        """Be connected, within the time of a call."""
        limit_ms = self._config.call_timeout_ms
        try:
            async with asyncio.timeout(limit_ms / 1000):
                await self.client.connect()
        except TimeoutError:
            text = f"no connection within {limit_ms} ms; nothing of this call was kept, the client goes on dialling"
            raise ConnectionError(text) from None
        except LakehouseRpcError as exc:
            if not exc.retryable:
                self._denial = exc
            raise

    def _told_by_silence(self, acked: int) -> Verdict:
        """A parent that acknowledged others meanwhile has a backlog of ours before it; it is slow, not away."""
        return Verdict.WELL if self._acked() > acked else Verdict.AWAY

    def _acked(self) -> int:
        return self.client.get_stats().acked_batches


def create_circuit_breaker_rpc_client(
    parent_url: str,
    child_id: str,
    *,
    circuit: CircuitBreakerRpcConfig | None = None,
    time_provider: MonotonicTimeProvider | None = None,
    **options: Any,
) -> CircuitBreakerRpcClient:
    """`create_rpc_client` with all its options, behind a circuit.

    `on_state_change` among the options hears of the client, that of `circuit` of the circuit.
    """
    client = create_rpc_client(parent_url, child_id, **options)
    return CircuitBreakerRpcClient(client, circuit, time_provider=time_provider)
