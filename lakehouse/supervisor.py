"""Keeps programs running: starts them, starts them again when they die, and stops them in the order it is told."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1
PAUSE_S_MAX = 10.0
STABLE_S = 30.0
"""A program that ran for so long is started again at once."""


@dataclass(slots=True)
class Program:
    name: str
    argv: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    pause_s: float = 0.0
    not_before_s: float | None = None
    """When it may be started again, once it died."""

    def start(self) -> None:
        # A session of its own, so that Ctrl-C reaches the supervisor only and the order of stopping is ours.
        self.process = subprocess.Popen(self.argv, start_new_session=True, preexec_fn=_die_with_parent)
        self.started_s, self.not_before_s = time.monotonic(), None


class Supervisor:
    def __init__(self, programs: Sequence[Program], *, say: Callable[[str], None]) -> None:
        self._programs = {program.name: program for program in programs}
        self._say = say
        self.stopping = False

    def start(self) -> None:
        for program in self._programs.values():
            program.start()

    def ask_to_stop(self) -> None:
        """Safe to call from a signal handler; `watch` returns soon after."""
        self.stopping = True

    def watch(self) -> None:
        """Until somebody asks to stop."""
        while not self.stopping:
            self.look(wait_s=0.2)

    def look(self, *, wait_s: float) -> None:
        """Wait a moment and start again what died and has paused for long enough."""
        time.sleep(wait_s)
        for program in self._programs.values():
            if not self.stopping and program.process is not None and program.process.poll() is not None:
                self._restart(program)

    def stop(self, name: str, *, within_s: float) -> None:
        """Ask a program to end; end it when it does not in time."""
        process = self._programs[name].process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._say(f"{name} did not stop within {within_s:.0f} s and is killed; the journal keeps what it was at")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _restart(self, program: Program) -> None:
        now_s = time.monotonic()
        if program.not_before_s is None:
            assert program.process is not None
            lived_s = now_s - program.started_s
            program.pause_s = 0.0 if lived_s >= STABLE_S else min(max(0.5, program.pause_s * 2), PAUSE_S_MAX)
            program.not_before_s = now_s + program.pause_s
            self._say(
                f"{program.name} ended with {program.process.returncode} after {lived_s:.0f} s; starting it again"
            )
        if now_s >= program.not_before_s:
            program.start()


def _die_with_parent() -> None:
    """In the child, before its program: be killed when the supervisor is (Linux, prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
