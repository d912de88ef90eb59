"""What the settings of a test run are derived from; loaded by pytest before anybody reads them (addopts, `-p`).

EVODB_TEST_DATABASE=postgresql runs everything on a PostgreSQL started for this run; else it is a SQLite file.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import ExitStack

RUN = ExitStack()
"""What lives as long as this process."""


def prepare() -> None:
    """A data folder of its own, so that no test sees a laptop's lake, and the database that was asked for."""
    folder = os.environ["EVODB_DATA_DIR"] = tempfile.mkdtemp(prefix="evodb-tests-")
    RUN.callback(shutil.rmtree, folder, ignore_errors=True)
    wanted = os.environ.get("EVODB_TEST_DATABASE", "sqlite")
    if wanted not in {"sqlite", "postgresql"}:
        raise ValueError(f"EVODB_TEST_DATABASE is {wanted!r}, wanted sqlite or postgresql")
    if wanted == "postgresql":
        from tests import services

        os.environ["EVODB_DATABASE_URL"] = RUN.enter_context(services.postgres())


for name in [name for name in os.environ if name.startswith("EVODB_") and name != "EVODB_TEST_DATABASE"]:
    del os.environ[name]
atexit.register(RUN.close)
prepare()
