"""One command at a time moves a house, or opens it again: of two, the one that fails would open what the other moves.

The lock is the operating system's or the server's, so whoever dies leaves none.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from django.db import DatabaseError, connections

from lakehouse.moving.old_house import CannotMove

LOCK = int.from_bytes(b"evomove")
BUSY = "another manage.py move is at this house; wait for its end, and type the same again"


@contextmanager
def alone(alias: str) -> Iterator[None]:
    """Raises CannotMove."""
    lock = _on_the_server if connections[alias].vendor == "postgresql" else _on_the_folder
    with lock(alias):
        yield


@contextmanager
def _on_the_server(alias: str) -> Iterator[None]:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
        if not cursor.fetchone()[0]:
            raise CannotMove(BUSY)
    try:
        yield
    finally:
        with suppress(DatabaseError), connections[alias].cursor() as cursor:  # a lost connection has no lock
            cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


@contextmanager
def _on_the_folder(alias: str) -> Iterator[None]:
    """Not on the file: who closes it takes away the locks that SQLite has on it in this process."""
    folder = os.open(Path(connections[alias].settings_dict["NAME"]).resolve().parent, os.O_RDONLY)
    try:
        _flock(folder)
        yield
    finally:
        os.close(folder)


def _flock(folder: int) -> None:
    """Folders of some networks have no locks."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotMove(BUSY) from None
    except OSError:
        return
