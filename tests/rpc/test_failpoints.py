import os
import signal
import subprocess
import sys

import pytest

from rpc import failpoints
from rpc.failpoints import VARIABLE, Failpoint, FailpointFailed, reach


@pytest.fixture(autouse=True)
def disarmed():
    yield
    failpoints.arm("")


def run(failpoint):
    """A process that passes `sent` five times and says so."""
    program = "from rpc.failpoints import *\nfor n in range(5): reach(Failpoint.SENT); print(n, flush=True)"
    return subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | {VARIABLE: failpoint}, stdout=-1, stderr=-1, text=True
    )


def test_nothing_happens_where_nobody_asked_for_it():
    failpoints.arm("acked=fail")
    for point in set(Failpoint) - {Failpoint.ACKED}:
        reach(point)
    with pytest.raises(FailpointFailed, match="acked"):
        reach(Failpoint.ACKED)


def test_a_point_fails_at_the_visit_it_was_told_and_never_again():
    failpoints.arm("acked=fail@3, sent=fail")
    reach(Failpoint.ACKED)
    reach(Failpoint.ACKED)
    with pytest.raises(OSError, match=VARIABLE):
        reach(Failpoint.ACKED)
    reach(Failpoint.ACKED)
    with pytest.raises(OSError, match="sent"):
        reach(Failpoint.SENT)


def test_a_process_dies_as_by_kill_9():
    with run("sent=kill@3") as process:
        assert process.communicate()[0].split() == ["0", "1"]
        assert process.returncode == -signal.SIGKILL


def test_a_process_stops_until_it_is_told_to_go_on():
    with run("sent=pause@2") as process:
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        process.send_signal(signal.SIGCONT)
        assert process.communicate()[0].split() == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("text", ["sent", "sent=explode", "nowhere=kill", "sent=kill@0", "sent=kill@x", "sent==kill"])
def test_a_failpoint_that_is_none_says_what_there_is(text):
    with pytest.raises(ValueError, match=f"{VARIABLE} has '{text}', wanted POINT=ACTION.*sent.*kill"):
        failpoints.arm(text)


def test_a_process_with_a_failpoint_that_is_none_does_not_start():
    with run("swaped=kill") as process:
        assert "swapped" in process.communicate()[1]
        assert process.returncode == 1
