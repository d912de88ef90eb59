"""A command in a folder where no parent was ever started: a sentence, and not a page of frames."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from django.db import DatabaseError, OperationalError
from psycopg.errors import UndefinedTable

from lakehouse.management import unprepared

MANAGE = Path(__file__).parents[2] / "manage.py"


def test_a_command_before_the_first_parent_says_what_to_type(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "EVODB_DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, MANAGE, "lake", "stats"],
        env=environment | {"EVODB_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "no parent of this version was started with" in done.stderr
    assert str(tmp_path) in done.stderr
    assert "`make serve` does it" in done.stderr
    assert "EVODB_DATA_DIR=" in done.stderr


def test_an_empty_postgresql_is_told_by_its_code_and_any_other_error_is_none_of_this():
    exc = DatabaseError('relation "lakehouse_parent" does not exist\nLINE 1: ...')
    exc.__cause__ = UndefinedTable()
    said = unprepared.sentence(exc)
    assert said is not None
    assert said.startswith('relation "lakehouse_parent" does not exist: ')
    assert said.endswith("type manage.py migrate")
    assert unprepared.sentence(OperationalError("database is locked")) is None
