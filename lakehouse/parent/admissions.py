"""Handshakes judged: by the rows behind them, or by what was found for the same a second ago.

When a process starts anew all its children knock at once, and in an open house they all ask for the same row: 0.5 ms of
CPU and a turn of the writer thread each. A key is looked up every time, so that one that was revoked lets nobody in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from lakehouse.conf import Settings
from lakehouse.parent import arrivals
from lakehouse.parent.arrivals import Admitted, Knock
from lakehouse.parent.grants import Refused
from rpc.names import is_name

KNOWN_MS = 1000
PARENTS_KNOWN_MAX = 1000


class Admissions:
    """For one process. `run` does database work and returns what it returns."""

    def __init__(
        self, run: Callable[[Callable[[], Any]], Awaitable[Any]], settings: Settings, *, now_ms: Callable[[], int]
    ) -> None:
        self._run = run
        self._settings = settings
        self._now_ms = now_ms
        self._known: dict[str, tuple[int, Admitted]] = {}
        """By parent: until when, what."""

    def known(self, knock: Knock) -> Admitted | None:
        """Let a handshake in without asking the database; None when that has to be asked."""
        until_ms, admitted = self._known.get(knock.parent, (0, None))
        if self._now_ms() >= until_ms or not all(is_name(name) for name in (knock.child, knock.shard) if name):
            return None
        return admitted

    async def judge(self, knock: Knock) -> Admitted | Refused:
        """Raises DatabaseError."""
        settings, now_ms = self._settings, self._now_ms()
        verdict: Admitted | Refused = await self._run(
            lambda: arrivals.judge(knock, is_open=settings.open, now_ms=now_ms, parents_max=settings.parents_max)
        )
        if settings.open and isinstance(verdict, Admitted):
            if len(self._known) >= PARENTS_KNOWN_MAX:
                self._known.clear()
            self._known[knock.parent] = (now_ms + KNOWN_MS, verdict)
        return verdict
