"""A database that is away, or that no parent of this version was started on: what a command says about it."""

from __future__ import annotations

from django.conf import settings
from django.db import DatabaseError

from lakehouse import database_choice
from lakehouse.moving import seal

UNDEFINED = ("42P01", "42703")
"""PostgreSQL's codes, of a table and of a column."""
AWAY = ("unable to open", "disk is full", "readonly database", "disk I/O error", "not a database")
"""What SQLite says of a file that cannot be used."""


def sentence(exc: DatabaseError) -> str | None:
    """What to type where a table is not there or the database is away; None for any other error."""
    found, state = str(exc), getattr(exc.__cause__, "sqlstate", None)
    if moved := seal.said_in(found):
        return moved
    if "no such table" in found:
        return (
            f"{found}: no parent of this version was started with {settings.DATABASES['default']['NAME']} yet. "
            "`make serve` does it, and `manage.py migrate`; if you mean another one, type EVODB_DATA_DIR=<its folder> "
            "before the command"
        )
    if state in UNDEFINED or "no such column" in found:
        return f"{found.splitlines()[0]}: the database is empty or older than this version; type manage.py migrate"
    if any(words in found for words in AWAY) or _is_unconnected(exc):
        return f"the database {_place()} cannot be used: {' '.join(found.split())}"
    return None


def _is_unconnected(exc: DatabaseError) -> bool:
    """PostgreSQL gives no code to what ends before anybody is connected, and psycopg none to what ends a connection."""
    cause = exc.__cause__
    return type(cause).__module__.startswith("psycopg") and getattr(cause, "sqlstate", "") is None


def _place() -> str:
    """As the settings have it, without a password."""
    name = "EVODB_DATABASE_URL" if settings.EVODB.database_url else "EVODB_DATA_DIR"
    return f"{database_choice.shown(settings.DATABASES['default'])} ({name})"
