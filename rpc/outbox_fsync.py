"""One fsync for the commits of some milliseconds, so that not each of them waits for the disk.

In WAL a commit without fsync is in the page cache: the death of the process does not touch it, a power cut may. An
fsync of the WAL file covers every commit in it, whoever made it. It takes none of SQLite's locks, so that others write
on meanwhile; and whatever SQLite itself syncs first, a checkpoint or a commit in FULL, is covered already.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable

log = logging.getLogger(__name__)


class GroupedFsync:
    """Begins an fsync of this file at most `within_ms` after `note`. Its thread lives only while one is due."""

    def __init__(
        self,
        path: str,
        *,
        within_ms: int,
        fsync: Callable[[int], None] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failed = False
        """An fsync raised; what it should have covered may be lost to a power cut, and each commit makes its own."""
        self._path = path
        self._within_s = within_ms / 1000
        self._fsync = fsync or os.fsync
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._since_s: float | None = None
        self._thread: threading.Thread | None = None
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        # Also runs when the process ends without `close`, where a daemon thread is not waited for.
        self._end = weakref.finalize(self, _fsync_and_close, self._fd, self._fsync)

    def note(self) -> None:
        """There is a commit that no fsync has covered."""
        with self._lock:
            if self._since_s is None:
                self._since_s = self._monotonic_s()
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name=f"fsync of {self._path}", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no thread is to be had, as while the interpreter ends
                self._thread = self._since_s = None
                self._sync()

    def close(self) -> None:
        """Sync what is due and end the thread; closing twice is fine."""
        self._closing.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
        if self._end.detach() is not None:
            os.close(self._fd)

    def _run(self) -> None:
        while (due_s := self._due_s()) is not None:
            self._closing.wait(due_s)
            with self._lock:
                self._since_s = None
            self._sync()

    def _due_s(self) -> float | None:
        """How long the next fsync has time; None when none is due, and then this thread is over."""
        with self._lock:
            if self._since_s is None:
                self._thread = None
                return None
            return max(0.0, self._since_s + self._within_s - self._monotonic_s())

    def _sync(self) -> None:
        try:
            self._fsync(self._fd)
        except OSError as exc:
            self.failed = True
            log.error(
                "fsync of %s failed: %s; what was appended lately may not survive a power cut, and from now on each "
                "append makes its own",
                self._path,
                exc,
            )


def _fsync_and_close(fd: int, fsync: Callable[[int], None]) -> None:
    try:
        fsync(fd)
    finally:
        os.close(fd)
