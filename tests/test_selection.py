"""Which tests a run on PostgreSQL has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.acceptance.conftest import ON_BOTH, ON_BOTH_AT_LENGTH
from tests.conftest import OF_FILES, SLOW_FILES, once_is_enough

TESTS = Path(__file__).parent
NO_DATABASE, FILES, ONCE = "ask for no database", "are about files of the lake", "are marked `once`"


def a_test(path: str, *fixtures: str, marked: bool = False, also: str = "") -> Any:
    marks = {"django_db": object()} if marked else {}
    marks |= {also: object()}
    return SimpleNamespace(path=TESTS / path, fixturenames=fixtures, get_closest_marker=marks.get)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (a_test("lakehouse/test_shred.py", "tmp_path"), NO_DATABASE),
        (a_test("lakehouse/test_accept.py", marked=True), ""),
        (a_test("lakehouse/test_accept.py", "db"), ""),
        (a_test("lakehouse/test_accept.py", "transactional_db"), ""),
        (a_test("lakehouse/test_engine.py"), NO_DATABASE),
        (a_test("lakehouse/test_engine.py", marked=True), FILES),
        (a_test("lakehouse/test_admin.py", "db", also="once"), ONCE),
        (a_test("lakehouse/test_engine.py", marked=True, also="both"), ""),
        (a_test("acceptance/test_street.py"), ""),
    ],
)
def test_on_postgresql_runs_what_asks_for_a_database_and_does_not_only_look_up_files(one: Any, reason: str) -> None:
    assert once_is_enough(one) == reason


def test_every_file_that_is_named_is_there() -> None:
    assert {path.name for path in (TESTS / "lakehouse").iterdir()} >= OF_FILES
    assert {path.name for path in (TESTS / "acceptance").iterdir()} >= ON_BOTH | ON_BOTH_AT_LENGTH
    assert {path.name for path in TESTS.glob("*/test_*.py")} >= SLOW_FILES
