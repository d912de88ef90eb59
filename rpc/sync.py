"""The client for threads, scripts and Django code: the same methods, each returning when it is done.

One background thread runs the event loop of the asyncio client; every call is handed over to it. Any number of threads
may share a client.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import CancelledError, Future
from typing import Any, Self, TypeVar

from rpc.client import LakehouseRpcClient, Wait
from rpc.create import create_rpc_client
from rpc.errors import ConnectionError, OutboxClosedError
from rpc.given import EntryLike
from rpc.messages import FlushResult
from rpc.outcome import ClientState, ClientStats, RpcSendResult
from rpc.report import Status

__all__ = ["SyncRpcClient", "create_sync_rpc_client"]

T = TypeVar("T")


class SyncRpcClient:
    """A LakehouseRpcClient and the thread that runs it, from the first call until `close`."""

    def __init__(self, client: LakehouseRpcClient) -> None:
        self._client = client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"evodb-{client.child_id}", daemon=True)
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> ClientState:
        return self._client.state

    def connect(self) -> None:
        """Return when the parent knows this child. Raises AccessDeniedError, or ConnectionError after all attempts."""
        self._do(self._client.connect())

    def send(self, entry: EntryLike) -> None:
        """Keep one change; it is on disk when this returns and leaves with the next batch."""
        self._do(self._client.send(entry))

    def send_many(self, entries: Iterable[EntryLike]) -> int:
        """Keep these changes, all or none; returns how many. Raises BufferOverflowError, ProtocolError."""
        return self._do(self._client.send_many(entries))

    def send_batch(self, entries: Iterable[EntryLike], *, wait: Wait = "durable") -> RpcSendResult:
        """Keep these changes, send them at once, and return when the parent has them or refused them for good.

        With `wait="persisted"`: when they are in the table.
        """
        return self._do(self._client.send_batch(entries, wait=wait))

    def drain(self) -> None:
        """Send everything kept and return when all of it is acknowledged or a dead letter."""
        self._do(self._client.drain())

    def request_flush(self) -> FlushResult:
        """Send what is kept, have the parent write it all into tables, and return when it has."""
        return self._do(self._client.request_flush())

    def disconnect(self, *, timeout_ms: int = 5000) -> None:
        """Send what is kept if the parent takes it in time, say goodbye, and stop every timer."""
        self._do(self._client.disconnect(timeout_ms=timeout_ms))

    def get_stats(self) -> ClientStats:
        return self._client.get_stats()

    def status(self) -> Status:
        """The integration guide's picture of a connection."""
        return self._client.status()

    def metrics_text(self) -> str:
        """Prometheus lines, the integration guide's names first."""
        return self._client.metrics_text()

    def close(self) -> None:
        """Disconnect, close the outbox if the client opened it, end the thread. Closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._wait_for(self._run(self._close()))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, call: Coroutine[Any, Any, T]) -> T:
        if self._pid != os.getpid():
            call.close()
            raise ConnectionError("this client was made before a fork; make one in each process")
        with self._lock:  # what is handed over is so before `close` ends the loop, or not at all
            if self._closed:
                call.close()
                raise ConnectionError("this client is closed; make a new one")
            future = self._run(call)
        return self._wait_for(future)

    async def _close(self) -> None:
        await self._client.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:  # a thread waits for each, and the loop ends
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        if not self._thread.is_alive():
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def _wait_for(self, future: Future[T]) -> T:
        try:
            return future.result()
        except CancelledError:
            raise ConnectionError("this client was closed meanwhile") from None
        except OutboxClosedError as exc:
            if not self._closed:
                raise
            raise ConnectionError("this client was closed meanwhile") from exc
        except BaseException:
            future.cancel()
            raise


def create_sync_rpc_client(parent_url: str, child_id: str, **options: Any) -> SyncRpcClient:
    """`create_rpc_client`, for code without an event loop."""
    return SyncRpcClient(create_rpc_client(parent_url, child_id, **options))
