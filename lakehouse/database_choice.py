"""Which database, as rows of the settings' table (lakehouse.conf), and what Django is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dj_database_url

from lakehouse.setting import database, setting

SQLITE, POSTGRESQL = "django.db.backends.sqlite3", "django.db.backends.postgresql"


@dataclass(frozen=True, kw_only=True)
class DatabaseConfig:
    database_url: str = setting(
        "",
        unit="URL",
        why="Where the journal and the catalog live. Empty: SQLite in data_dir; else postgresql://...",
        **database(),
    )
    database_pooler: bool = setting(
        False,
        unit="yes/no",
        why="database_url leads to a pooler that gives each transaction another connection (PgBouncer, Supavisor).",
    )


def database_of(url: str, *, pooler: bool = False) -> dict[str, Any]:
    """An entry of DATABASES. Raises ValueError for a URL that names none."""
    # Rows that are read in portions are read by a cursor, which the next transaction's connection does not have.
    database: dict[str, Any] = dict(dj_database_url.parse(url, disable_server_side_cursors=pooler))
    if database["ENGINE"] not in {SQLITE, POSTGRESQL}:
        raise ValueError(f"{database['ENGINE']} is not known here")
    if database["ENGINE"] == SQLITE:
        database["OPTIONS"] = {
            # IMMEDIATE: a transaction that will write takes its turn at the start, where waiting is safe.
            "transaction_mode": "IMMEDIATE",
            "timeout": 5,
            # secure_delete: Debian's SQLite overwrites what is deleted, so that a flush wrote its payloads once more
            # (48 ms of CPU and 200 ms of waiting for 20 MB; now 6 and 8).
            "init_command": (
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16000; PRAGMA secure_delete=FAST;"
            ),
        }
    return database


def shown(database: dict[str, Any]) -> str:
    """Which one it is, without a password."""
    at = f" at {database['HOST']}:{database.get('PORT') or 5432}" if database.get("HOST") else ""
    return f"{database['NAME']}{at}"
