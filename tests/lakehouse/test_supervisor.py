import os
import re
import signal
import sys
import time
from contextlib import suppress

import psutil
import pytest

from lakehouse import supervisor, up
from lakehouse.conf import Settings
from lakehouse.supervisor import Program, Supervisor

FOREVER = "import time\nwhile True: time.sleep(60)"
DEAF = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n{FOREVER}"
ANNOUNCED = f"from lakehouse import announcement\nannouncement.make()\nannouncement.make()\n{FOREVER}"
PARENT_OF_A_DEAF_ONE = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {DEAF!r}])\n{DEAF}"


class Site:
    """A supervisor of programs in Python, and what it said."""

    def __init__(self, **programs):
        self.said = []
        self.when_said = lambda: None
        self.programs = {name: Program(name, [sys.executable, "-c", code]) for name, code in programs.items()}
        self.supervisor = Supervisor(list(self.programs.values()), say=self._say)

    def _say(self, text):
        self.said.append(text)
        self.when_said()

    def pid(self, name):
        return self.programs[name].process.pid

    def look_until(self, condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.said
            self.supervisor.look(wait_s=0.01)

    def clean_up(self):
        for program in self.programs.values():
            if program.process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(program.process.pid, signal.SIGKILL)
                program.process.wait()


@pytest.fixture
def site():
    sites = []

    def build(**programs):
        sites.append(Site(**programs))
        sites[-1].supervisor.start()
        return sites[-1]

    yield build
    for one in sites:
        one.clean_up()


@pytest.fixture
def no_pauses(monkeypatch):
    """A program counts as stable from its first moment on."""
    monkeypatch.setattr(supervisor, "STABLE_S", 0.0)


def test_a_program_that_dies_is_started_again_and_the_others_are_left_alone(site, no_pauses):
    house = site(daphne=FOREVER, worker=FOREVER)
    first, other = house.pid("daphne"), house.pid("worker")
    os.kill(first, signal.SIGKILL)
    house.look_until(lambda: house.pid("daphne") != first)
    assert house.programs["daphne"].process.poll() is None
    assert house.pid("worker") == other
    [said] = house.said
    assert re.fullmatch("daphne ended with -9 after [0-9]+ s; starting it again", said)


def test_a_program_that_ends_by_itself_is_started_again(site, no_pauses):
    house = site(daphne="raise SystemExit(3)")
    house.look_until(lambda: len(house.said) >= 2)
    assert all(said.startswith("daphne ended with 3 after ") for said in house.said)


def test_a_program_that_cannot_stay_up_is_started_after_ever_longer_pauses(site, monkeypatch):
    monkeypatch.setattr(supervisor, "PAUSE_S_MAX", 0.7)
    house = site(daphne="raise SystemExit(1)")
    pauses = []
    for _ in range(3):
        dead = house.programs["daphne"].process
        dead.wait()
        while house.programs["daphne"].process is dead:
            house.supervisor.look(wait_s=0.01)
        pauses.append(house.programs["daphne"].pause_s)
    assert pauses == [0.5, 0.7, 0.7]


def test_a_program_that_cannot_stay_up_is_given_up_and_its_last_lines_are_kept(site, monkeypatch, capfd):
    monkeypatch.setattr(supervisor, "PAUSE_S_MAX", 0.01)
    house = site(daphne=FOREVER, worker="raise SystemExit('no such broker: ünknown')")
    house.supervisor.watch()
    worker = house.supervisor.gave_up
    assert worker is house.programs["worker"]
    assert len(house.said) == worker.deaths - 1 == supervisor.DEATHS_MAX - 1
    assert worker.words.lines() == ["no such broker: ünknown"]
    assert capfd.readouterr().err.count("no such broker: ünknown\n") == supervisor.DEATHS_MAX
    assert house.programs["daphne"].process.poll() is None


def test_deaths_far_apart_are_not_in_a_row(site, monkeypatch, no_pauses):
    house = site(worker="raise SystemExit(1)")
    house.look_until(lambda: len(house.said) > 2 * supervisor.DEATHS_MAX)
    assert house.supervisor.gave_up is None


def test_a_program_that_writes_more_than_anybody_keeps_is_not_stopped_by_it(site):
    code = "import sys\nfor n in range(20000): print('x' * 200, n, file=sys.stderr)\nraise SystemExit(0)"
    house = site(worker=code)
    assert house.programs["worker"].process.wait(20) == 0
    assert house.programs["worker"].words.lines()[-1].endswith(" 19999")


def test_a_program_that_was_stable_is_started_at_once(site, monkeypatch):
    house = site(daphne=FOREVER)
    house.programs["daphne"].pause_s = supervisor.PAUSE_S_MAX
    house.programs["daphne"].started_s -= supervisor.STABLE_S
    first = house.pid("daphne")
    os.kill(first, signal.SIGKILL)
    house.look_until(lambda: house.pid("daphne") != first)
    assert house.programs["daphne"].pause_s == 0


def test_who_is_asked_to_stop_starts_nothing_any_more(site):
    house = site(daphne=FOREVER)
    first = house.pid("daphne")
    os.kill(first, signal.SIGKILL)
    house.programs["daphne"].process.wait()
    house.supervisor.ask_to_stop()
    house.supervisor.watch()
    house.supervisor.look(wait_s=0)
    assert house.pid("daphne") == first
    assert house.said == []


def test_a_pause_ends_when_somebody_asks_to_stop(site):
    house = site(daphne="raise SystemExit(1)")
    program = house.programs["daphne"]
    program.pause_s = 8.0
    first = house.pid("daphne")
    program.process.wait()
    house.when_said = house.supervisor.ask_to_stop
    house.supervisor.watch()
    assert program.pause_s == supervisor.PAUSE_S_MAX
    assert house.pid("daphne") == first
    assert len(house.said) == 1


def test_a_program_that_listens_is_stopped_and_nothing_is_said(site):
    house = site(daphne=FOREVER)
    house.supervisor.stop("daphne", within_s=20)
    assert house.programs["daphne"].process.returncode == -signal.SIGTERM
    assert house.said == []


def test_a_program_that_does_not_listen_is_killed_with_all_it_started(site, capfd):
    house = site(worker=PARENT_OF_A_DEAF_ONE)
    heard = ""
    while heard.count("deaf") < 2:
        house.supervisor.look(wait_s=0.01)
        heard += capfd.readouterr().out
    [child] = psutil.Process(house.pid("worker")).children()
    house.supervisor.stop("worker", within_s=0.05)
    assert house.programs["worker"].process.returncode == -signal.SIGKILL
    assert house.said == ["worker did not stop within 0 s and is killed; the journal keeps what it was at"]
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_program_that_was_never_started_is_stopped_already():
    program = Program("worker", ["true"])
    Supervisor([program], say=print).stop("worker", within_s=1)
    assert program.process is None


def test_a_supervisor_that_is_killed_takes_its_programs_along():
    code = f"""
from lakehouse.supervisor import Program, Supervisor
programs = [Program(name, {[sys.executable, "-c", FOREVER]!r}) for name in ("daphne", "worker")]
supervisor = Supervisor(programs, say=print)
supervisor.start()
print("started", flush=True)
supervisor.watch()
"""
    with psutil.Popen([sys.executable, "-c", code], stdout=-1) as process:
        assert process.stdout.readline() == b"started\n"
        programs = process.children()
        assert len(programs) == 2
        process.kill()
    _, alive = psutil.wait_procs(programs, timeout=20)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def test_ctrl_c_reaches_the_supervisor_alone(site):
    house = site(daphne=FOREVER)
    assert os.getsid(house.pid("daphne")) == house.pid("daphne") != os.getsid(0)


def test_a_program_is_up_when_it_says_so_and_not_when_it_died_or_was_started_again(site, no_pauses):
    house = site(worker=ANNOUNCED, beat=FOREVER)
    worker = house.programs["worker"]
    house.look_until(lambda: worker.is_up)
    assert not house.programs["beat"].is_up
    first = house.pid("worker")
    os.kill(first, signal.SIGSTOP)
    assert worker.is_up
    os.kill(first, signal.SIGKILL)
    worker.process.wait()
    assert not worker.is_up
    house.look_until(lambda: house.pid("worker") != first)
    house.look_until(lambda: worker.is_up)


def test_what_is_not_up_in_time_is_named_with_its_last_lines_and_told_when_it_is(site, monkeypatch, tmp_path):
    monkeypatch.setattr(up, "_is_taken", lambda host, port: True)
    monkeypatch.setattr(supervisor, "WORDS_WITHIN_S", 0.01)
    broker = tmp_path / "broker"
    waits = f"""
import pathlib, sys, time
print("there is no broker", file=sys.stderr, flush=True)
while not pathlib.Path({str(broker)!r}).exists(): time.sleep(0.01)
"""
    house = site(daphne=FOREVER, worker=waits + ANNOUNCED, beat=ANNOUNCED)
    worker = house.programs["worker"]
    house.look_until(lambda: house.programs["beat"].is_up and worker.words.lines())
    monkeypatch.setattr(up, "READY_S", 0)
    late = up._late(Settings(), house.supervisor)
    assert [program.name for program in late] == ["worker"]
    assert "But worker is not up after 0 s" in up.lateness(worker)
    assert up.lateness(worker).endswith("Its last lines:\n    there is no broker\n")
    broker.touch()
    house.look_until(lambda: worker.is_up)
    monkeypatch.setattr(up, "_say", lambda text: (house.said.append(text), house.supervisor.ask_to_stop()))
    up._watch(house.supervisor, late)
    assert house.said == ["worker is up now"]
    assert late == []


def test_what_a_house_that_is_up_cannot_work_without_stands_below_its_addresses(monkeypatch):
    def away():
        raise PermissionError("no entry")

    checks = {"database": lambda: None, "broker": away, "object_store": away}
    monkeypatch.setattr("lakehouse.http.checks.checks_of", lambda _: dict(checks))
    assert up._unready(Settings()).startswith("  not ready  object_store (PermissionError); ")
    checks["object_store"] = lambda: None
    assert up._unready(Settings()) == ""
