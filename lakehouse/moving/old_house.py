"""The database of the house that is left: opened beside that of the settings, and looked at before anything is done."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import load_backend

from lakehouse import database_choice
from lakehouse.errors import LakehouseError
from lakehouse.models.parents import Holder

ALIAS = "moved_from"


class CannotMove(LakehouseError):
    """The house cannot be moved like this."""

    code = "CANNOT_MOVE"


def is_default(url: str) -> bool:
    """Whether it is the database of the settings, however either is spelt. Raises CannotMove."""
    found, ours = _database_of(url), connections.databases[DEFAULT_DB_ALIAS]
    if found["ENGINE"] != ours["ENGINE"]:
        return False
    if found["ENGINE"] == database_choice.SQLITE:
        there, here = Path(found["NAME"]).resolve(), Path(ours["NAME"]).resolve()
        return there == here or (there.exists() and here.exists() and there.samefile(here))
    with _connected(found):
        return _is_same(ALIAS, DEFAULT_DB_ALIAS)


def _is_same(one: str, other: str) -> bool:
    """Whether two connections to PostgreSQL lead into the same tables: a lock of the one keeps the other out."""
    number = secrets.randbits(62)
    try:
        with transaction.atomic(one), transaction.atomic(other):
            (_, first), (is_free, second) = [_locked(alias, number) for alias in (one, other)]
    except DatabaseError as exc:
        raise CannotMove(f"the database cannot be used: {' '.join(str(exc).split())}") from None
    return not is_free and first == second


def _locked(alias: str, number: int) -> tuple[bool, str]:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s), current_schema()", [number])
        is_free, schema = cursor.fetchone()
    return is_free, schema


@contextmanager
def opened(url: str) -> Iterator[str]:
    """The alias of the database. Raises CannotMove."""
    found = _database_of(url)
    if found["ENGINE"] == database_choice.SQLITE and not Path(found["NAME"]).is_file():
        raise CannotMove(f"there is no database {found['NAME']}; type the folder of the old house (its EVODB_DATA_DIR)")
    with _connected(found):
        _check_version(database_choice.shown(found))
        yield ALIAS


@contextmanager
def _connected(found: dict[str, Any]) -> Iterator[None]:
    described = connections.databases[DEFAULT_DB_ALIAS] | {"OPTIONS": {}} | found
    connections[ALIAS] = load_backend(found["ENGINE"]).DatabaseWrapper(described, ALIAS)
    try:
        yield
    finally:
        connections[ALIAS].close()
        del connections[ALIAS]


def check_nobody_is_in(alias: str, *, now_ms: int) -> None:
    """Raises CannotMove while a process of that house holds sockets, or one was killed a moment ago."""
    running = Holder.objects.using(alias).filter(lease_until_ms__gt=now_ms)
    if names := list(running.values_list("name", "lease_until_ms")):
        wait_s = -(-(max(until_ms for _, until_ms in names) - now_ms) // 1000)
        raise CannotMove(
            f"the old house is open, in {', '.join(name for name, _ in names)}; stop all its programs, and type the "
            f"same again (if they were killed, in {wait_s} s)"
        )


def _database_of(url: str) -> dict[str, Any]:
    try:
        return database_choice.database_of(url)
    except ValueError as exc:
        shown = re.sub(r":[^:@/]*@", "@", url)
        raise CannotMove(f"{shown} names no database: {exc}; wanted postgresql://... or sqlite:///...") from None


def _check_version(shown: str) -> None:
    try:
        executor = MigrationExecutor(connections[ALIAS])
        behind = executor.migration_plan(executor.loader.graph.leaf_nodes())
        loader = executor.loader
        ours = [one for one in loader.applied_migrations if one[0] in loader.migrated_apps]
    except DatabaseError as exc:
        raise CannotMove(f"the old database {shown} cannot be used: {' '.join(str(exc).split())}") from None
    if newer := sorted(set(ours) - set(loader.disk_migrations)):
        raise CannotMove(
            f"the old database {shown} is newer than this version ({'.'.join(newer[0])}), which would leave "
            "behind what it does not know; type it with the version that made it"
        )
    if behind:
        raise CannotMove(
            f"the old database {shown} is older than this version ({behind[0][0]} and {len(behind) - 1} more); "
            "type manage.py migrate with its settings, and then the same again"
        )
