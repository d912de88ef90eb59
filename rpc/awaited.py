"""Who waits for what of one client: batches for answers and tables, flush requests for results, others for anything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

from rpc.messages import FlushResult
from rpc.session import Persisted, Refusal, Resolved

K = TypeVar("K")
T = TypeVar("T")


class Awaited:
    """For one event loop. `progress` is set at the next answer, connection or loss, and replaced by a new one."""

    def __init__(self) -> None:
        self.progress = asyncio.Event()
        self._batches: dict[int, list[asyncio.Future[Resolved | Refusal]]] = {}
        """Of one batch there may be several: of a call, and of another that handed in the same again."""
        self._tables: dict[int, list[asyncio.Future[Persisted]]] = {}
        self._flushes: dict[str, list[asyncio.Future[FlushResult]]] = {}
        self.asking = asyncio.Lock()
        """Held by who asks for a flush: a parent does one at a time for a connection."""
        self._early: dict[int, Resolved | Refusal] | None = None
        self._early_through: Resolved | None = None

    @contextmanager
    def early_answers(self) -> Iterator[None]:
        """Within this, answers are kept for those who are about to wait: a batch may be answered before its cut is."""
        self._early = {}
        try:
            yield
        finally:
            self._early = self._early_through = None

    def batches(self, sequences: Iterable[int]) -> list[asyncio.Future[Resolved | Refusal]]:
        futures = [_waiting(self._batches, sequence) for sequence in sequences]
        for answer in list((self._early or {}).values()):
            self.answered(answer)
        if self._early_through is not None:
            self.answered_through(self._early_through.sequence, self._early_through)
        return futures

    def tables(self, sequences: Iterable[int]) -> list[asyncio.Future[Persisted]]:
        """For acknowledged batches: answered when they are in their tables."""
        return [_waiting(self._tables, sequence) for sequence in sequences]

    def watched(self) -> set[int]:
        """Batches whose tables somebody waits for."""
        for sequence in [sequence for sequence, waiting in self._tables.items() if all(map(_is_done, waiting))]:
            del self._tables[sequence]  # given up
        return set(self._tables)

    def persisted(self, persisted: Persisted) -> None:
        _tell(self._tables.pop(persisted.sequence, ()), persisted)

    def flush(self, correlation_id: str) -> asyncio.Future[FlushResult]:
        future = _waiting(self._flushes, correlation_id)
        future.add_done_callback(lambda _: self._flushes.pop(correlation_id, None))  # also when given up
        return future

    def tick(self) -> None:
        """Something happened; whoever looks from now on waits for the next thing."""
        self.progress.set()
        self.progress = asyncio.Event()

    def answered(self, answer: Resolved | Refusal) -> None:
        if self._early is not None:
            self._early[answer.sequence] = answer
        _tell(self._batches.pop(answer.sequence, ()), answer)
        self.tick()

    def answered_through(self, sequence: int, answer: Resolved) -> None:
        """Every batch up to this one has the same answer."""
        if self._early is not None:
            self._early_through = answer._replace(sequence=sequence)
        for known in [known for known in self._batches if known <= sequence]:
            self.answered(answer._replace(sequence=known))

    def flushed(self, correlation_id: str, result: FlushResult) -> None:
        _tell(self._flushes.pop(correlation_id, ()), result)

    def fail_batches(self, error: Exception) -> None:
        if self._early is not None:
            self._early, self._early_through = {}, None  # they were about sequences that mean nothing now
        _fail(self._batches, error)
        _fail(self._tables, error)

    def fail_table(self, sequence: int, error: Exception) -> None:
        _fail({sequence: self._tables.pop(sequence, [])}, error)

    def fail_tables(self, error: Exception) -> None:
        _fail(self._tables, error)

    def fail_flushes(self, error: Exception) -> None:
        _fail(self._flushes, error)


def _waiting(waiting: dict[K, list[asyncio.Future[T]]], key: K) -> asyncio.Future[T]:
    """One more that waits for this."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    waiting.setdefault(key, []).append(future)
    return future


def _is_done(future: asyncio.Future[Any]) -> bool:
    return future.done()


def _tell(waiting: Iterable[asyncio.Future[T]], answer: T) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(answer)


def _fail(waiting: dict[Any, list[asyncio.Future[Any]]], error: Exception) -> None:
    for future in chain.from_iterable(waiting.values()):
        if not future.done():
            future.set_exception(error)
    waiting.clear()
