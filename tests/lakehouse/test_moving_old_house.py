"""Which database is left, however it is spelt."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.db import connection, connections, transaction
from django.db.migrations.recorder import MigrationRecorder

from lakehouse.moving import old_house, seal
from lakehouse.moving.old_house import CannotMove
from tests.lakehouse.moving_site import Leave, leave
from tests.services import SHARED

__all__ = ["leave"]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def spellings(tmp_path: Path) -> Iterator[list[str]]:
    """Of the database of the settings."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "postgresql":
        split = urlsplit(os.environ[SHARED])._replace(path=f"/{name}")
        folder = tmp_path / "socket"
        folder.symlink_to(connection.settings_dict["HOST"] or split.query.removeprefix("host="))
        port = connection.settings_dict["PORT"] or 5432
        yield [split.geturl(), f"{split.scheme}://postgres@/{name}?host={folder}", f"{split.geturl()}&port={port}"]
        return
    linked, hard = tmp_path / "linked.sqlite3", Path(name).with_name(uuid.uuid4().hex)
    linked.symlink_to(name)
    hard.hardlink_to(name)
    yield [f"sqlite:///{name}", f"sqlite:///{os.path.relpath(name)}", f"sqlite:///{linked}", f"sqlite:///{hard}"]
    hard.unlink()


def test_the_database_of_the_settings_is_known_by_every_spelling(spellings: list[str]) -> None:
    connection.ensure_connection()
    assert [old_house.is_default(url) for url in spellings] == [True] * len(spellings)


def test_another_database_or_another_schema_of_the_same_is_another_house(leave: Leave, spellings: list[str]) -> None:
    assert not old_house.is_default(leave())
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA other")
        try:
            assert not old_house.is_default(f"{spellings[0]}&options=-c%20search_path%3Dother")
        finally:
            with connection.cursor() as cursor:
                cursor.execute("DROP SCHEMA other CASCADE")


def test_a_house_of_a_newer_version_does_not_lose_what_this_one_does_not_know(leave: Leave) -> None:
    url = leave()
    with old_house.opened(url) as alias:
        MigrationRecorder(connections[alias]).record_applied("lakehouse", "9999_next_year")
        MigrationRecorder(connections[alias]).record_applied("moved here", "0" * 32)
    with (
        pytest.raises(CannotMove, match=r"is newer than this version \(lakehouse\.9999_next_year\)"),
        old_house.opened(url),
    ):
        pass


def test_a_url_that_names_no_database_is_told_without_its_password() -> None:
    with pytest.raises(CannotMove, match="mysql://ann@db/shop names no database") as caught:
        old_house.is_default("mysql://ann:sesame@db/shop")
    assert "sesame" not in str(caught.value)


def test_a_house_whose_rows_somebody_holds_is_not_waited_for_for_ever(
    leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "PATIENCE_S", 1)
    url = leave()
    with old_house.opened(url) as alias:
        other = connections[alias].copy("other")
        if other.vendor == "sqlite":
            connections[alias].cursor().execute("PRAGMA busy_timeout = 100")
        try:
            other.set_autocommit(False)
            with other.cursor() as cursor:
                cursor.execute("UPDATE lakehouse_parent SET pending_bytes = 0")
            with pytest.raises(Exception, match="lock"), transaction.atomic(alias):
                seal.close(alias, "nowhere", seal.MOVES, "0" * 32)
        finally:
            other.rollback()
            other.close()
