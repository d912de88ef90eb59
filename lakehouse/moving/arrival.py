"""The new house while rows arrive: empty and nobody else's until its one transaction ends, and then it knows of which.

A note of that transaction has the number of the seal on the old house. So after a death, or a COMMIT whose answer never
came, nobody has to guess from rows whether they are all there. It lies where Django notes migrations, which is a table
of every house, under a name that no migration has.
"""

from __future__ import annotations

from django.db import connections, transaction
from django.db.migrations.recorder import MigrationRecorder

from lakehouse.moving.seal import PATIENCE_S

APP = "moved here"


def take(alias: str, tables: list[str]) -> None:
    """Nobody writes into these tables until the transaction ends; who reads finds what was there before.

    A transaction of SQLite has the database for itself already.
    """
    if connections[alias].vendor != "postgresql":
        return
    names = ", ".join(f'"{name}"' for name in [*tables, MigrationRecorder.Migration._meta.db_table])
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{PATIENCE_S}s'")
        cursor.execute(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")


def note(alias: str, number: str) -> None:
    """In the transaction."""
    MigrationRecorder(connections[alias]).record_applied(APP, number)


def is_noted(alias: str, number: str) -> bool:
    """Whether all of it came; a transaction whose end nobody heard of is waited for. Raises DatabaseError."""
    with transaction.atomic(alias):
        take(alias, [])
        notes = MigrationRecorder.Migration.objects.using(alias)
        return notes.filter(app=APP, name=number).exists()
