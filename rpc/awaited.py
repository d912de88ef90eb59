"""Who waits for what of one client: batches for answers and tables, flush requests for results, others for anything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rpc.messages import FlushResult
from rpc.session import Persisted, Refusal, Resolved


class Awaited:
    """For one event loop. `progress` is set at the next answer, connection or loss, and replaced by a new one."""

    def __init__(self) -> None:
        self.progress = asyncio.Event()
        self._batches: dict[int, asyncio.Future[Resolved | Refusal]] = {}
        self._tables: dict[int, asyncio.Future[Persisted]] = {}
        self._flushes: dict[str, asyncio.Future[FlushResult]] = {}
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
        loop = asyncio.get_running_loop()
        futures = [self._batches.setdefault(sequence, loop.create_future()) for sequence in sequences]
        for answer in list((self._early or {}).values()):
            self.answered(answer)
        if self._early_through is not None:
            self.answered_through(self._early_through.sequence, self._early_through)
        return futures

    def tables(self, sequences: Iterable[int]) -> list[asyncio.Future[Persisted]]:
        """For acknowledged batches: answered when they are in their tables."""
        loop = asyncio.get_running_loop()
        return [self._tables.setdefault(sequence, loop.create_future()) for sequence in sequences]

    def watched(self) -> set[int]:
        """Batches whose tables somebody waits for."""
        for sequence in [sequence for sequence, future in self._tables.items() if future.done()]:
            del self._tables[sequence]  # given up
        return set(self._tables)

    def persisted(self, persisted: Persisted) -> None:
        future = self._tables.pop(persisted.sequence, None)
        if future is not None and not future.done():
            future.set_result(persisted)

    def flush(self, correlation_id: str) -> asyncio.Future[FlushResult]:
        self._flushes[correlation_id] = asyncio.get_running_loop().create_future()
        return self._flushes[correlation_id]

    def tick(self) -> None:
        """Something happened; whoever looks from now on waits for the next thing."""
        self.progress.set()
        self.progress = asyncio.Event()

    def answered(self, answer: Resolved | Refusal) -> None:
        future = self._batches.pop(answer.sequence, None)
        if future is None and self._early is not None:
            self._early[answer.sequence] = answer
        if future is not None and not future.done():
            future.set_result(answer)
        self.tick()

    def answered_through(self, sequence: int, answer: Resolved) -> None:
        """Every batch up to this one has the same answer."""
        if self._early is not None:
            self._early_through = answer._replace(sequence=sequence)
        for known in [known for known in self._batches if known <= sequence]:
            self.answered(answer._replace(sequence=known))

    def flushed(self, correlation_id: str, result: FlushResult) -> None:
        future = self._flushes.pop(correlation_id, None)
        if future is not None and not future.done():
            future.set_result(result)

    def fail_batches(self, error: Exception) -> None:
        if self._early is not None:
            self._early, self._early_through = {}, None  # they were about sequences that mean nothing now
        _fail(self._batches, error)
        _fail(self._tables, error)

    def fail_table(self, sequence: int, error: Exception) -> None:
        future = self._tables.pop(sequence, None)
        if future is not None and not future.done():
            future.set_exception(error)

    def fail_tables(self, error: Exception) -> None:
        _fail(self._tables, error)

    def fail_flushes(self, error: Exception) -> None:
        _fail(self._flushes, error)


def _fail(futures: dict[Any, asyncio.Future[Any]], error: Exception) -> None:
    for future in futures.values():
        if not future.done():
            future.set_exception(error)
    futures.clear()
