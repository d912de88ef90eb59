"""Where a process of the simulation is struck, and how: it dies, it fails, or it sleeps and is woken.

One that is killed at a failpoint does nothing from there on, whatever its code would still do on its way out: none of
its queries arrives any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from unittest import mock

from rpc import failpoints
from rpc.failpoints import Failpoint

FLUSH_POINTS = (
    Failpoint.CLAIMED,
    Failpoint.SHREDDED,
    Failpoint.FILES_WRITTEN,
    Failpoint.METADATA_WRITTEN,
    Failpoint.MARKED,
    Failpoint.SWAPPED,
    Failpoint.FALLBACK_WRITTEN,
    Failpoint.COMMITTED,
    Failpoint.ANNOUNCED,
)
RECOVERY_POINTS = (
    Failpoint.FILES_WRITTEN,
    Failpoint.METADATA_WRITTEN,
    Failpoint.RECOVERY_STAGED,
    Failpoint.RECOVERY_SWAPPED,
)
IN_TRANSACTION = {Failpoint.MARKED, Failpoint.SWAPPED, Failpoint.FALLBACK_WRITTEN, Failpoint.RECOVERY_SWAPPED}
"""Where a worker holds the parent's row: whoever else wants it waits."""
AFTER_THE_COMMIT = {Failpoint.COMMITTED, Failpoint.ANNOUNCED}
CLEANS_UP = ("SAVEPOINT", "ROLLBACK TO", "RELEASE")
"""What the database does by itself when a connection is gone."""


class Killed(BaseException):
    """This worker is no more."""


class End(Enum):
    KILLED = auto()
    FAILED = auto()
    PAUSED = auto()
    """And woken."""


@dataclass(frozen=True)
class Mishap:
    """What happens to a worker when it comes to a failpoint, at the first visit or a later one."""

    point: Failpoint
    visit: int
    end: End
    meanwhile: Callable[[], None] = lambda: None
    """While it is paused."""


class Death:
    """Between a worker and its database: once it is dead, none of its queries arrives."""

    def __init__(self) -> None:
        self.has_come = False

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if self.has_come and not sql.startswith(CLEANS_UP):
            raise Killed
        return execute(sql, params, many, context)


@contextmanager
def armed(point: Failpoint, visit: int, strike: Callable[[Failpoint], None]) -> Iterator[None]:
    """Within this the point strikes once."""
    with mock.patch.dict(failpoints.ACTIONS, strike=strike):
        failpoints.arm(f"{point}=strike@{visit}")
        try:
            yield
        finally:
            failpoints.arm("")
