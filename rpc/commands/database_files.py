"""Whether a path on the command line is a SQLite file that can be worked with; found out without leaving a trace.

SQLite itself would answer with "file is not a database" after it made files of its own beside it.
"""

from __future__ import annotations

import os
from pathlib import Path

from rpc.commands.endings import UsageError
from rpc.errors import CaptureError

MAGIC = b"SQLite format 3\0"
"""The first bytes of every database that is not empty."""
SUFFIXES = {".db", ".db3", ".sqlite", ".sqlite3"}
NAMED_MAX = 3
OUTBOX = "evodb-outbox-"
"""What begins the name of a client's own file."""


def database(path: str, *, wanted: str) -> Path:
    """The SQLite file with this path; an empty file is an empty database. Raises UsageError when it is none."""
    found = Path(path)
    if found.is_dir():
        raise UsageError(f"{path} is a folder, wanted {wanted}; {_nearby(found)}")
    if not found.exists():
        raise UsageError(f"there is no file {path}, wanted {wanted}; {_nearby(found.parent)}")
    if not found.is_file():
        raise UsageError(f"{path} is no ordinary file, wanted {wanted}; {_nearby(found.parent)}")
    head = _head(found)
    if head and head != MAGIC:
        raise UsageError(
            f"{path} is not a SQLite database (it begins with {head.decode('ascii', 'backslashreplace')!r}), "
            f"wanted {wanted}; {_nearby(found.parent)}"
        )
    return found


def writable(path: Path) -> Path:
    """This file, if triggers can be written into it. Raises CaptureError when not."""
    folder = path.resolve().parent
    for name, is_writable in ((path, os.access(path, os.W_OK)), (folder, os.access(folder, os.W_OK | os.X_OK))):
        if not is_writable:
            raise CaptureError(
                f"{name} is read-only for this user, but capture writes triggers into {path} and files beside it; "
                f"type chmod u+w {name}, or run as the user whose application writes it"
            )
    return path


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(len(MAGIC))


def _nearby(folder: Path) -> str:
    """What to type, with the databases that are in this folder."""
    try:
        named = sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file())
        found = [str(each) for each in named if _head(each) == MAGIC and not each.name.startswith(OUTBOX)]
    except OSError:
        found = []
    return f"type the path of one, {' or '.join(found[:NAMED_MAX])} maybe" if found else "type the path of one"
