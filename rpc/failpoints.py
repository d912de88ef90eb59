"""Named points of the street where a process can be made to die, to stop or to fail; for tests and drills only.

    EVODB_FAILPOINTS=swapped=kill                 dies as by kill -9 when it comes here for the first time
    EVODB_FAILPOINTS=acked=kill@3,sent=pause      the third time; stops, until somebody sends SIGCONT
    EVODB_FAILPOINTS=files_written=fail           an OSError, as of a disk or a store

Each strikes once in the life of a process. Without the variable a point costs 0.1 us (CPython 3.11, 2 slow
cores); a batch of one entry passes three of them in the parent, where it costs 46 us.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

VARIABLE = "EVODB_FAILPOINTS"
CLOCK_SHIFT_MS = int(os.environ.get("EVODB_CLOCK_SHIFT_MS") or 0)
"""How far the clock of this process is ahead of others; for the same purpose."""
SPELLING = re.compile(r"(?P<point>[a-z_]+)=(?P<action>[a-z]+)(?:@(?P<visit>[1-9]\d{0,8}))?")


class Failpoint(StrEnum):
    """In the order in which a change walks down the street."""

    OUTBOX_WRITTEN = "outbox_written"
    """Child: a batch is cut and durable, and not sent."""
    SENT = "sent"
    """Child: a batch was handed to the socket."""
    RECEIVED = "received"
    """Parent: a batch is whole and checked, and nowhere but in memory."""
    JOURNALLED = "journalled"
    """Parent: a group of batches is committed; nobody was told."""
    ACKED = "acked"
    """Parent: answers to a child were written to its socket."""
    ACK_LOST = "ack_lost"
    """Child: an ack has come, and the outbox does not know."""
    CLAIMED = "claimed"
    """Worker: it holds the lease, and the batches carry its flush."""
    SHREDDED = "shredded"
    """Worker: the rows are in memory, of no file."""
    FILES_WRITTEN = "files_written"
    """Worker: a table's Parquet files are written; nothing names them."""
    METADATA_WRITTEN = "metadata_written"
    """Worker: a table's metadata file names them; no pointer names it."""
    MARKED = "marked"
    """Worker: within the transaction, the batches are persisted and the commit has its number."""
    SWAPPED = "swapped"
    """Worker: within the transaction, the pointers of all tables have moved too."""
    COMMITTED = "committed"
    """Worker: the transaction is committed."""
    ANNOUNCED = "announced"
    """Worker: old metadata and payloads are deleted, and whoever waits may be told."""
    FOREIGN_ANNOUNCED = "foreign_announced"
    """Worker: the journal knows which tables of a foreign catalog are about to be appended to."""
    FOREIGN_APPENDING = "foreign_appending"
    """Worker: one of them was looked at; the append is about to be sent."""
    FOREIGN_APPENDED = "foreign_appended"
    """Worker: that catalog has it; the journal does not know."""
    FALLBACK_WRITTEN = "fallback_written"
    """Worker: the store is away; within the transaction, rows are kept and their batches marked."""
    RECOVERY_STAGED = "recovery_staged"
    """Worker: kept rows are in files again; nothing is committed, no pointer names them."""
    RECOVERY_SWAPPED = "recovery_swapped"
    """Worker: within the transaction, they are kept no more and the pointer has moved."""
    CURRENT_WRITTEN = "current_written"
    """Worker: the buckets of a table of now are written anew, and its metadata; no pointer names them."""
    CURRENT_SWAPPED = "current_swapped"
    """Worker: within the transaction, its positions and its pointer have moved."""
    ERASED_WRITTEN = "erased_written"
    """`manage.py erase`: the files of a table are written anew without the rows; nothing names them."""
    ERASED_SWAPPED = "erased_swapped"
    """`manage.py erase`: the table has the rows no more; its older snapshots do."""
    MOVE_CLOSED = "move_closed"
    """`manage.py move`: the old house takes no change any more; nothing else was done."""
    MOVE_COPIED = "move_copied"
    """`manage.py move`: the files of all tables are in the new place; nothing names them."""
    MOVE_WRITTEN = "move_written"
    """`manage.py move`: within the transaction, rows, counters and pointers are in the new database."""
    MOVE_COMMITTED = "move_committed"
    """`manage.py move`: the new house has everything; the old one says that it moves still."""


class FailpointFailed(OSError):
    """A failpoint was told to fail here."""


@dataclass(slots=True)
class _Armed:
    action: str
    left: int
    """Visits until it strikes."""


def reach(point: Failpoint) -> None:
    """This point is reached. Does nothing unless the environment said so."""
    if _armed:
        _visit(point)


def arm(text: str) -> None:
    """Take these failpoints in place of all others; an empty text disarms them. Raises ValueError."""
    _armed.clear()
    _armed.update(parse(text))


def parse(text: str) -> Mapping[Failpoint, _Armed]:
    """Raises ValueError."""
    found = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        spelled = SPELLING.fullmatch(word)
        if spelled is None or spelled["point"] not in set(Failpoint) or spelled["action"] not in ACTIONS:
            points, actions = ", ".join(Failpoint), ", ".join(ACTIONS)
            raise ValueError(
                f"{VARIABLE} has {word!r}, wanted POINT=ACTION or POINT=ACTION@VISIT; points are {points}; "
                f"actions are {actions}"
            )
        found[Failpoint(spelled["point"])] = _Armed(spelled["action"], int(spelled["visit"] or 1))
    return found


def _visit(point: Failpoint) -> None:
    with _lock:
        armed = _armed.get(point)
        if armed is None or armed.left == 0:
            return
        armed.left -= 1
        strikes = not armed.left
    if strikes:
        ACTIONS[armed.action](point)


def _kill(_: Failpoint) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _pause(_: Failpoint) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _fail(point: Failpoint) -> None:
    raise FailpointFailed(f"failpoint {point} was told to fail ({VARIABLE})")


ACTIONS = {"kill": _kill, "pause": _pause, "fail": _fail}
_lock = threading.Lock()
_armed: dict[Failpoint, _Armed] = {}
arm(os.environ.get(VARIABLE, ""))
