"""A program that begins with its libraries loaded is a process as any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import preloaded
from tests.preloaded import FORKS, NEVER, Popen

KNOWS = f"import sys; print('duckdb' in sys.modules, 'celery' in sys.modules, {set(NEVER)!r} & set(sys.modules) or '')"


def ended(*words: str, **how: Any) -> tuple[int, str, str]:
    done = preloaded.ended([sys.executable, *words], **how)
    return done.returncode, done.stdout, done.stderr


def test_it_has_loaded_what_nobody_imported_and_nothing_of_a_site() -> None:
    assert ended("-c", KNOWS) == (0, "True True \n", "")


def test_its_words_its_folder_its_environment_and_its_streams_are_what_it_was_given(tmp_path: Path) -> None:
    program = "import os, sys; print(sys.argv, os.getcwd(), dict(os.environ), __name__, sys.stdin.read()); 1/0"
    (tmp_path / "told").write_text("heard")
    with (tmp_path / "told").open() as told:
        code, out, err = ended("-c", program, "a", "b c", cwd=tmp_path, env={"X": "ü"}, stdin=told)
    assert (code, out) == (1, f"['-c', 'a', 'b c'] {tmp_path} {{'X': 'ü'}} __main__ heard\n")
    assert err.endswith("ZeroDivisionError: division by zero\n")


def test_a_script_and_a_module_find_what_lies_beside_them(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'found'")
    (tmp_path / "script.py").write_text("import sys, beside; sys.exit(f'{beside.WORD} by {sys.argv}')")
    script = str(tmp_path / "script.py")
    assert ended(script, "x") == (1, "", f"found by {[script, 'x']}\n")
    assert ended("-W", "error:a thing", "-m", "script", "y", cwd=tmp_path) == (1, "", f"found by {[script, 'y']}\n")
    assert ended("-W", "ignore:a thing", "-c", "import warnings; warnings.warn('a thing')") == (0, "", "")


@pytest.mark.parametrize(("said", "code"), [("0", 0), ("7", 7), ("None", 0), ("'words'", 1)])
def test_its_exit_code_is_what_it_says_after_its_last_words(said: str, code: int) -> None:
    program = f"import atexit, sys; atexit.register(print, 'last'); sys.exit({said})"
    assert ended("-c", program)[:2] == (code, "last\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_is_a_child_of_who_started_it_in_a_session_of_its_own_and_dies_of_signals(number: int) -> None:
    program = "import os, time; print(os.getsid(0) == os.getpid(), os.getppid()); time.sleep(60)"
    argv = [sys.executable, "-c", program]
    with Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"True {os.getpid()}\n"
        process.send_signal(number)
        assert process.wait(60) == -number


def test_a_failpoint_of_its_environment_is_armed() -> None:
    program = "from rpc.failpoints import Failpoint, reach; reach(Failpoint.SENT)"
    assert ended("-c", program, env=os.environ | {"EVODB_FAILPOINTS": "sent=kill"})[0] == -signal.SIGKILL
    assert ended("-c", program)[0] == 0


def test_a_process_of_a_run_has_somebody_of_its_own_who_forks_and_tells_nobody_else() -> None:
    mine = f"import os, sys; print(os.getppid(), 'celery' in sys.modules, {FORKS!r} in os.environ)"
    program = f"""
import os, sys
from tests.preloaded import Popen, ended
Popen.take_over()
print(os.getpid(), ended([sys.executable, "-c", {mine!r}]).stdout.split())
"""
    argv = [sys.executable, "-u", "-c", program]
    with Popen(argv, stdout=subprocess.PIPE, text=True, forks=True) as process:
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, f"{process.pid} ['{process.pid}', 'True', 'False']\n")
