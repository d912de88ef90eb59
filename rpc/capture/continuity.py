"""Whether the file under capture is still the one it was, and no older than it was.

A backup that is restored into a file we have open takes back the numbers of batches. Those that are cut then bear
numbers the parent has with other content, and whoever is connected would take the parent's word that it has them.
Another file that is put in the place of ours is not seen by SQLite at all.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from rpc.errors import CaptureError
from rpc.outbox_file import number


class FileReplacedError(CaptureError):
    """Another file bears the name of the one under capture."""

    code = "FILE_REPLACED"


class Continuity:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _file(path)
        self._known: tuple[int, int] | None = None
        """The epoch, and the last sequence of it."""

    def check_name(self) -> None:
        """Raises FileReplacedError. While there is no file of the name, somebody may be about to put it back."""
        if self._file is not None and (now := _file(self._path)) is not None and now != self._file:
            raise FileReplacedError(
                f"{self._path} was replaced by another file, and what is written there is not followed; "
                "start capture again, which attaches to it"
            )

    def restored_from(self, connection: sqlite3.Connection) -> int | None:
        """The epoch the file was in, if it is as it was earlier than when this was asked last."""
        found, known = (number(connection, "epoch"), number(connection, "last_sequence")), self._known
        self._known = found
        return known[0] if known is not None and found < known else None

    def forget_numbers(self) -> None:
        self._known = None


def _file(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
