"""What the settings of a test run are derived from; loaded by pytest before anybody reads them (addopts, `-p`).

EVODB_TEST_DATABASE=postgresql runs everything on a PostgreSQL started for this run; else it is a SQLite file. Processes
of one run (`-n`) share the server and have databases of their own.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.preloaded import Popen

IN_MEMORY, ROOM_BYTES = Path("/dev/shm"), 2 * 1024**3
RUN = ExitStack()
"""What lives as long as this process."""


def work_in_memory() -> None:
    """Files lie in memory where there is room, unless TMPDIR says where: no test cuts the power.

    On a disk that others use, a fifth of the time went into fsyncs.
    """
    if "TMPDIR" not in os.environ and IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM_BYTES:
        os.environ["TMPDIR"] = str(IN_MEMORY)
        tempfile.tempdir = None


def prepare() -> None:
    """A data folder of its own, so that no test sees a laptop's lake, and the database that was asked for."""
    folder = os.environ["EVODB_DATA_DIR"] = tempfile.mkdtemp(prefix="evodb-tests-")
    RUN.callback(shutil.rmtree, folder, ignore_errors=True)
    wanted = os.environ.get("EVODB_TEST_DATABASE", "sqlite")
    if wanted not in {"sqlite", "postgresql"}:
        raise ValueError(f"EVODB_TEST_DATABASE is {wanted!r}, wanted sqlite or postgresql")
    if wanted == "postgresql":
        from tests import services

        if services.SHARED not in os.environ:
            os.environ[services.SHARED] = RUN.enter_context(services.postgres())
        os.environ["EVODB_DATABASE_URL"] = os.environ[services.SHARED]


for name in [name for name in os.environ if name.startswith("EVODB_") and not name.startswith("EVODB_TEST_")]:
    del os.environ[name]
Popen.take_over()
atexit.register(RUN.close)
work_in_memory()
prepare()
gc.disable()  # until conftest.py has collected: imports make no garbage worth a second of each process
