"""GET /ready: all checks at once, each bounded, asked at most once a second however many probes come.

A check that hangs keeps the one thread it has; until that ends, it is said how long it has been silent.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from django.db import DatabaseError

from lakehouse.flush.fuse import FuseBlown
from lakehouse.http.checks import Check, checks_of
from lakehouse.journal.intake import Intake
from lakehouse.management import unprepared
from lakehouse.parent.house import House

log = logging.getLogger(__name__)

WITHIN_MS = 2000
FRESH_MS = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """`error` is the kind of error; what it says may name hosts, and is for the log."""

    ok: bool
    latency_ms: int
    error: str | None = None


@dataclass(slots=True)
class Asked:
    """A check under way."""

    since_ms: int
    answer: asyncio.Future[None]


class Readiness:
    """For one process and event loop."""

    def __init__(
        self,
        checks: Mapping[str, Check],
        *,
        now_ms: Callable[[], int],
        within_ms: int = WITHIN_MS,
        fresh_ms: int = FRESH_MS,
    ) -> None:
        self._checks = checks
        self._now_ms = now_ms
        self._within_ms, self._fresh_ms = within_ms, fresh_ms
        self._asked: dict[str, Asked] = {}
        self._found: dict[str, Found] = {}
        self._found_ms: int | None = None
        self._looking: asyncio.Task[None] | None = None

    async def look(self) -> dict[str, Found]:
        if self._looking is None and (self._found_ms is None or self._now_ms() - self._found_ms >= self._fresh_ms):
            self._looking = asyncio.create_task(self._look())
        if self._looking is not None:
            await asyncio.shield(self._looking)
        return self._found

    async def _look(self) -> None:
        try:
            found = await asyncio.gather(*(self._ask(name, check) for name, check in self._checks.items()))
        finally:
            self._looking = None
        self._found, self._found_ms = dict(zip(self._checks, found, strict=True)), self._now_ms()

    async def _ask(self, name: str, check: Check) -> Found:
        asked = self._asked.get(name)
        if asked is None or asked.answer.done():
            asked = self._asked[name] = Asked(self._now_ms(), _in_thread(check, name))
        try:
            async with asyncio.timeout(self._within_ms / 1000):
                await asyncio.shield(asked.answer)
        except TimeoutError:
            if not asked.answer.done():
                return self._bad(name, asked, "no answer", f"no answer for {self._now_ms() - asked.since_ms} ms")
            return self._bad(name, asked, "TimeoutError", "TimeoutError")
        except FuseBlown as exc:  # told to everybody: it names our own parents and counts, and no host
            return self._bad(name, asked, str(exc), str(exc))
        except DatabaseError as exc:
            kind = type(exc).__name__
            return self._bad(name, asked, unprepared.sentence(exc) or f"{kind}: {exc}", kind)
        except Exception as exc:
            return self._bad(name, asked, f"{type(exc).__name__}: {exc}", type(exc).__name__)
        return Found(True, self._now_ms() - asked.since_ms)

    def _bad(self, name: str, asked: Asked, why: str, shown: str) -> Found:
        before = self._found.get(name)
        if before is None or before.ok:
            log.error("not ready: %s: %s", name, why)
        return Found(False, self._now_ms() - asked.since_ms, shown)


def readiness_of(house: House) -> Readiness:
    found = _readiness.get(house.intake)
    if found is None:
        found = _readiness[house.intake] = Readiness(checks_of(house.settings), now_ms=house.now_ms)
    return found


def _in_thread(check: Check, name: str) -> asyncio.Future[None]:
    """In a thread that never keeps a process from ending."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[None] = loop.create_future()
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    def tell(error: Exception | None) -> None:
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def run() -> None:
        error: Exception | None = None
        try:
            check()
        except Exception as exc:
            error = exc
        try:
            loop.call_soon_threadsafe(tell, error)
        except RuntimeError:  # the loop ended first
            log.info("nobody waits for the check of the %s any more", name)

    threading.Thread(target=run, name=f"evodb-ready-{name}", daemon=True).start()
    return answer


_readiness: WeakKeyDictionary[Intake, Readiness] = WeakKeyDictionary()
