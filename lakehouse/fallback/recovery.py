"""Brings waiting rows into their tables when the object store is back: in order per table, and without losing any.

An attempt is written down before it is made. So rows that kill the process are tried `max_retries` times and no more,
and two workers seldom try the same rows. They may, and a worker may die between the write and the removal: then the
writer is given the same stamp again, and it is the writer that makes this exactly once, by keeping the stamp with the
rows in one commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, TypeAlias

from lakehouse.fallback.config import DEFAULT_RECOVERY_CONFIG, RecoveryConfig
from lakehouse.fallback.objects import TableName
from lakehouse.fallback.storage import FallbackStorage, WaitingRows

__all__ = ["FallbackRecoveryManager", "Recovered", "Write"]

log = logging.getLogger(__name__)

ERROR_CHARS_MAX = 2000
Write: TypeAlias = Callable[[str, str, Any, int], None]
"""Takes namespace, table, rows (pyarrow.Table) and their stamp; when it returns, the rows are in the table."""


class _End(Enum):
    WRITTEN = auto()
    LATER = auto()
    STUCK = auto()


@dataclass(slots=True)
class Recovered:
    """What one round did, and what it left."""

    batches: int = 0
    rows: int = 0
    later: dict[TableName, int] = field(default_factory=dict)
    """Tables that are tried again, and when (ms)."""
    stuck: dict[TableName, str] = field(default_factory=dict)
    """Tables whose oldest rows were tried too often, and the last error; `reset` tries them again."""


class FallbackRecoveryManager:
    def __init__(
        self,
        storage: FallbackStorage,
        write: Write,
        config: RecoveryConfig = DEFAULT_RECOVERY_CONFIG,
        *,
        now_ms: Callable[[], int],
        interval_ms: int = 60_000,
        blameless: tuple[type[Exception], ...] = (),
    ) -> None:
        """`blameless` errors say nothing about the rows: an attempt that ends with one is not counted."""
        if interval_ms < 0:
            raise ValueError(f"interval_ms is {interval_ms}, wanted at least 0")
        self.config = config
        self._storage = storage
        self._write = write
        self._now_ms = now_ms
        self._interval_ms = interval_ms
        self._blameless = blameless
        self._last_round_ms: int | None = None

    def recover_if_due(self) -> Recovered | None:
        """`recover`, but None within `interval_ms` of the last round; for a loop that turns faster."""
        if self._last_round_ms is not None and self._now_ms() - self._last_round_ms < self._interval_ms:
            return None
        return self.recover()

    def recover(self, *, until_ms: int | None = None) -> Recovered:
        """Write what waits. A table ends at its first failure, the others go on; nothing begins after `until_ms`."""
        self._last_round_ms = self._now_ms()
        done = Recovered()
        for name in self._storage.pending_tables():
            for waiting in self._storage.oldest_first(name):
                if until_ms is not None and self._now_ms() >= until_ms:
                    return done
                if self._attempt(waiting, done) is not _End.WRITTEN:
                    break
        return done

    def reset(self) -> int:
        """Try again at once whatever failed; returns how many tables that are."""
        found = 0
        for name in self._storage.pending_tables():
            oldest = self._storage.oldest(name)
            if oldest is not None and oldest.stored.attempts:
                found += self._storage.note(oldest, attempts=0, next_attempt_ms=0, error=oldest.stored.last_error)
        return found

    def _attempt(self, waiting: WaitingRows, done: Recovered) -> _End:
        stored, name = waiting.stored, waiting.stored.name
        if stored.attempts >= self.config.max_retries:
            done.stuck[name] = stored.last_error
            return _End.STUCK
        if self._is_early(stored.next_attempt_ms):
            done.later[name] = stored.next_attempt_ms
            return _End.LATER
        attempts = stored.attempts + 1
        next_ms = self._now_ms() + self.config.delay_ms(attempts)
        begun = f"attempt {attempts} did not come to its end"
        if not self._storage.note(waiting, attempts=attempts, next_attempt_ms=next_ms, error=begun):
            done.later[name] = next_ms  # another worker is at it
            return _End.LATER
        try:
            self._write(name.namespace, name.table, waiting.read(), waiting.stamp)
        except Exception as exc:
            return self._failed(waiting, attempts, exc, done)
        self._storage.remove(waiting.stamp)
        done.batches += 1
        done.rows += stored.rows
        return _End.WRITTEN

    def _is_early(self, next_ms: int) -> bool:
        """A moment later than any delay was written by a clock that was wrong; nobody waits hours for it."""
        now_ms = self._now_ms()
        return now_ms < next_ms <= now_ms + 2 * self.config.max_delay_ms

    def _failed(self, waiting: WaitingRows, attempts: int, exc: Exception, done: Recovered) -> _End:
        name = waiting.stored.name
        error = f"{type(exc).__name__}: {exc}"[:ERROR_CHARS_MAX]
        next_ms = self._now_ms() + self.config.delay_ms(attempts)
        begun = WaitingRows(waiting.stamp, replace(waiting.stored, attempts=attempts))
        if isinstance(exc, self._blameless):
            attempts, next_ms = attempts - 1, self._now_ms()
        self._storage.note(begun, attempts=attempts, next_attempt_ms=next_ms, error=error)
        log.warning("rows %d of %s wait on after attempt %d: %s", waiting.stamp, name, attempts, error)
        if attempts >= self.config.max_retries:
            done.stuck[name] = error
            return _End.STUCK
        done.later[name] = next_ms
        return _End.LATER
