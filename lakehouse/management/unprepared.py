"""A database that no parent was started on, or not since it is of this version: what a command says about it."""

from __future__ import annotations

from django.conf import settings
from django.db import DatabaseError

UNDEFINED_TABLE = "42P01"
"""PostgreSQL's code."""


def sentence(exc: DatabaseError) -> str | None:
    """What to type where a table is not there; None for any other error."""
    if "no such table" in str(exc):
        return (
            f"{exc}: no parent of this version was started with {settings.DATABASES['default']['NAME']} yet. "
            "`make serve` does it; if you mean another one, type EVODB_DATA_DIR=<its folder> before the command"
        )
    if getattr(exc.__cause__, "sqlstate", None) == UNDEFINED_TABLE:
        found = str(exc).splitlines()[0]
        return f"{found}: the database is empty or older than this version; type manage.py migrate"
    return None
