"""The file of a restored database: there when all of it is, and never in the place of another.

It is made beside, and linked to its name, which fails where that name exists. A file system without links gets an empty
file of the name first, which fails alike, and the whole one over it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rpc.errors import LakehouseRpcError
from rpc.restoring import NothingThere, Restored


class RestoreError(LakehouseRpcError):
    """The lake cannot be made into a database."""

    code = "RESTORE_ERROR"


def into_file(path: Path, work: Callable[[sqlite3.Connection], Restored]) -> Restored:
    """The file is there when all of it is, or not at all. Raises RestoreError, and what `work` raises."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)  # of one that was killed
        with closing(sqlite3.connect(part, isolation_level=None, check_same_thread=False)) as connection:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN")
            made = work(connection)
            connection.execute("COMMIT")
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        _name(part, path)
    except FileExistsError:
        raise RestoreError(f"{path} was made by somebody else meanwhile; type the path of a file to be made") from None
    except (NothingThere, sqlite3.Error, OSError) as exc:
        raise RestoreError(str(exc)) from None
    finally:
        part.unlink(missing_ok=True)
    return made


def _name(part: Path, path: Path) -> None:
    """Raises FileExistsError, and then nothing was done."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        path.touch(exist_ok=False)
        try:
            part.replace(path)
        except OSError:
            path.unlink()
            raise
