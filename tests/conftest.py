"""Settings every test runs under: a data folder of its own, so that no test sees a laptop's lake.

EVODB_TEST_DATABASE=postgresql runs everything on a PostgreSQL started for this run; else it is a SQLite file.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import tempfile
from contextlib import ExitStack

from django.conf import settings
from django.db import connections
from django.utils.functional import empty

from tests import services
from tests.services import lake_settings, moto_store, postgres_url, rclone_store, redis_url

__all__ = ["lake_settings", "moto_store", "postgres_url", "rclone_store", "redis_url"]

RUN = ExitStack()
"""What lives as long as this process."""


def _environment() -> None:
    """What the settings of this run are derived from, where the caller did not say it himself."""
    if "EVODB_DATA_DIR" not in os.environ:
        folder = os.environ["EVODB_DATA_DIR"] = tempfile.mkdtemp(prefix="evodb-tests-")
        RUN.callback(shutil.rmtree, folder, ignore_errors=True)
    wanted = os.environ.get("EVODB_TEST_DATABASE", "sqlite")
    if wanted not in {"sqlite", "postgresql"}:
        raise ValueError(f"EVODB_TEST_DATABASE is {wanted!r}, wanted sqlite or postgresql")
    if wanted == "postgresql":
        os.environ["EVODB_DATABASE_URL"] = RUN.enter_context(services.postgres())


def _settings_anew() -> None:
    """pytest-django reads the settings before any conftest is imported, that is before the lines above."""
    module = importlib.import_module(os.environ["DJANGO_SETTINGS_MODULE"])
    importlib.reload(module)
    settings._wrapped = empty
    connections.close_all()
    connections._settings = None
    connections.__dict__.pop("settings", None)
    for alias in connections.all(initialized_only=True):
        del connections[alias.alias]


atexit.register(RUN.close)
_environment()
_settings_anew()
