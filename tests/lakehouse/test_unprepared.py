"""A command in a folder where no parent was ever started: a sentence, and not a page of frames."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
from django.db import DatabaseError, OperationalError
from psycopg.errors import UndefinedTable

from lakehouse.management import unprepared
from tests.preloaded import Popen, ended
from tests.services import free_port

MANAGE = Path(__file__).parents[2] / "manage.py"


def test_a_command_before_the_first_parent_says_what_to_type(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "EVODB_DATABASE_URL"}
    done = ended([sys.executable, MANAGE, "lake", "stats"], env=environment | {"EVODB_DATA_DIR": str(tmp_path)})
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


def manage(*arguments, **environment):
    """Whatever this run has set for itself does not count."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("EVODB_")}
    argv = [sys.executable, MANAGE, *arguments]
    return ended(argv, env=ours | environment)


def test_a_postgresql_that_is_away_is_told_without_its_password_and_without_a_traceback(tmp_path):
    url = f"postgresql://evodb:sesame@127.0.0.1:{free_port()}/shop"
    done = manage("lake", "stats", EVODB_DATA_DIR=str(tmp_path), EVODB_DATABASE_URL=url)
    assert (done.returncode, "Traceback" in done.stderr, "sesame" in done.stderr) == (1, False, False)
    assert done.stderr.startswith("CommandError: the database shop at 127.0.0.1:")
    assert "(EVODB_DATABASE_URL) cannot be used: connection failed" in done.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"EVODB_LEASE_MS": "soon"}, "EvoDB cannot start: EVODB_LEASE_MS is 'soon', wanted a whole number (ms)\n"),
        ({"EVODB_DATA_DIR": "/dev/null"}, "EvoDB cannot start: EVODB_DATA_DIR says /dev/null, wanted a folder"),
    ],
)
def test_a_setting_that_cannot_work_is_a_sentence_of_every_command(environment, said):
    done = manage("lake", "stats", **environment)
    assert (done.returncode, done.stderr.startswith(said)) == (1, True), done.stderr


def test_a_python_without_django_says_which_one_to_type():
    """`python manage.py`, as everybody types it first."""
    argv = [sys.executable, "-S", MANAGE, "lake", "stats"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"{sys.executable} has no django; type .venv/bin/python {MANAGE} lake stats" in done.stderr


def test_a_reader_that_has_had_enough_ends_a_command_without_a_word(tmp_path):
    """`manage.py query ... | head -1`"""
    argv = [sys.executable, MANAGE, "query", "SELECT repeat('x', 1000) FROM range(5000)"]
    with Popen(argv, stdout=PIPE, stderr=PIPE, env=prepared(tmp_path)) as process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (1, "")


def test_ctrl_c_ends_a_long_query_with_a_sentence(tmp_path):
    long = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"
    argv = [sys.executable, MANAGE, "query", long]
    with Popen(argv, stdout=PIPE, stderr=PIPE, env=prepared(tmp_path), start_new_session=True) as process:
        while not has_children(process.pid):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (130, "ended by Ctrl-C\n")


def prepared(folder):
    """The environment of a house in which nothing was flushed yet."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("EVODB_")}
    environment = ours | {"EVODB_DATA_DIR": str(folder)}
    done = ended([sys.executable, MANAGE, "migrate", "--verbosity", "0"], env=environment)
    assert done.returncode == 0, done.stderr
    return environment


def has_children(pid):
    return any(one.read_text() for one in Path(f"/proc/{pid}/task").glob("*/children"))


def test_a_folder_whose_secret_key_is_not_for_this_user_is_a_sentence(tmp_path):
    (tmp_path / "secret-key").mkdir()  # as root, who may read everything, gets the same error of another name
    done = manage("lake", "stats", EVODB_DATA_DIR=str(tmp_path))
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    said = f"EvoDB cannot start: EVODB_DATA_DIR says {tmp_path}, wanted one that this user may read and write: "
    assert done.stderr.startswith(f"{said}{tmp_path}/secret-key: ")


def test_a_house_behind_https_passes_the_checks_for_deployment(tmp_path):
    found = {"EVODB_DATA_DIR": str(tmp_path), "EVODB_COOKIES_SECURE": "yes"}
    done = manage("check", "--deploy", "--fail-level", "WARNING", **found)
    assert (done.returncode, done.stderr) == (0, "")
