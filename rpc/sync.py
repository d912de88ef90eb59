"""The client for threads, scripts and Django code: the same methods, each returning when it is done.

One background thread runs the event loop of the asyncio client; every call is handed over to it. Any number of threads
may share a client. Handlers run in that thread and may not call it: it cannot wait for itself.
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
from rpc.outbox import Outbox
from rpc.outcome import ClientState, ClientStats, RpcSendResult
from rpc.report import Status

__all__ = ["SyncRpcClient", "create_sync_rpc_client"]

T = TypeVar("T")


class SyncRpcClient:
    """A LakehouseRpcClient and the thread that runs it, from the first call until `close`."""

    def __init__(self, client: LakehouseRpcClient) -> None:
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = self._is_closing = False
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()  # nobody else would
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def child_id(self) -> str:
        return self._client.child_id

    @property
    def state(self) -> ClientState:
        return self._client.state

    @property
    def outbox(self) -> Outbox:
        """For its dead letters; what is revived leaves with the next batch, or `drain`."""
        return self._client.outbox

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
        self._check_process()
        return self._client.get_stats()

    def status(self) -> Status:
        """The integration guide's picture of a connection."""
        self._check_process()
        return self._client.status()

    def metrics_text(self) -> str:
        """Prometheus lines, the integration guide's names first."""
        self._check_process()
        return self._client.metrics_text()

    def close(self) -> None:
        """Disconnect, close the outbox if the client opened it, end the thread. Closing twice is fine.

        Ctrl-C meanwhile closes at once. In a process that was forked off nothing is closed: all of it is the other's.
        """
        if self._pid != os.getpid():
            return
        self._check_thread()
        try:
            closing = None
            with self._lock:
                if not self._closed:
                    self._closed = True
                    closing = self._run(self._close())
            if closing is not None:
                self._wait_for(closing)
        finally:
            if self._is_closing and self._thread is not None:
                self._thread.join()  # it ends itself, wherever Ctrl-C met this one

    def _do(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            self._check_process()
            self._check_thread()
            with self._lock:  # what is handed over is so before `close` ends the loop, or not at all
                if self._closed:
                    raise ConnectionError("this client is closed; make a new one")
                future = self._run(call)
        except BaseException:
            call.close()
            raise
        return self._wait_for(future)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ConnectionError("this client was made before a fork; make one in each process")

    def _check_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                f"a handler called the client of child {self.child_id!r}, whose thread runs it and cannot wait for "
                "itself; have another thread call"
            )

    async def _close(self) -> None:
        self._is_closing = True
        try:
            await self._client.close()
        finally:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:  # a thread waits for each, and the loop ends
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.stop)

    def _run(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            name = f"evodb-{self.child_id}"
            self._thread = threading.Thread(target=_live, args=(self._loop,), name=name, daemon=True)
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


def _live(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def create_sync_rpc_client(parent_url: str, child_id: str, **options: Any) -> SyncRpcClient:
    """`create_rpc_client`, for code without an event loop."""
    return SyncRpcClient(create_rpc_client(parent_url, child_id, **options))
