"""Opening an outbox file: only one that is ours is touched, and a damaged one may be put aside.

Functions over the door to the file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rpc.errors import OutboxCorruptError
from rpc.outbox_damage import DamagedFileError, broken_batch, damage, last_epoch
from rpc.outbox_file import OutboxFile, check_format, create_tables, number, set_number

log = logging.getLogger(__name__)


def open_ours(file: OutboxFile, *, now_ms: int) -> None:
    """Have the tables of an outbox in this file. Raises OutboxCorruptError for a file that is anything else."""
    with file.reading() as connection:
        foreign = connection.execute(
            "SELECT name FROM sqlite_schema WHERE name NOT GLOB '_evodb_[bcdm]*' AND name NOT GLOB 'sqlite_*'"
        ).fetchone()
        if foreign:
            raise OutboxCorruptError(
                f"{file.path} is a database, but not an outbox (it has {foreign[0].decode()}); give the outbox a "
                "file of its own, or capture this database with SqliteCapture"
            )
    file.prepare(own=True)
    with file.writing() as connection:
        create_tables(connection, now_ms=now_ms)
        check_format(connection, file.path)


def open_or_put_aside(file: OutboxFile, *, now_ms: Callable[[], int]) -> None:
    """As `open_ours`, but all of the file is read, and a damaged one makes place for an empty one."""
    try:
        _open_sound(file, now_ms=now_ms())
    except DamagedFileError:
        with file.alone():
            try:
                _open_sound(file, now_ms=now_ms())  # another process may have put it aside meanwhile
            except DamagedFileError as exc:
                _put_aside(file, exc, now_ms=now_ms())


def _open_sound(file: OutboxFile, *, now_ms: int) -> None:
    open_ours(file, now_ms=now_ms)
    with file.reading() as connection:
        if found := damage(connection) or broken_batch(connection):
            raise file.damaged(found)


def _put_aside(file: OutboxFile, found: DamagedFileError, *, now_ms: int) -> None:
    epoch = last_epoch(file.connection) + 1
    aside = file.put_aside(now_ms=now_ms)
    open_ours(file, now_ms=now_ms)
    with file.writing() as connection:
        set_number(connection, "epoch", max(epoch, number(connection, "epoch")))
    log.error(
        "%s: %s. It is kept as %s, and an empty outbox has begun; append to it what rpc.outbox_salvage.salvage(%r) "
        "still finds",
        file.path,
        found.details["found"],
        aside,
        str(aside),
    )
