"""Keeps programs running: starts them, starts them again when they die, and stops them in the order it is told.

One that dies again and again right after its start is given up, and `gave_up` has its last words.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from lakehouse import announcement

PR_SET_PDEATHSIG = 1
PAUSE_S_MAX = 10.0
STABLE_S = 30.0
"""A program that ran for so long is started again at once."""
DEATHS_MAX = 5
"""A program that died so often in a row, each time before it was stable, is given up."""
LINES_KEPT, LINE_BYTES_MAX = 15, 1000
WORDS_WITHIN_S = 1.0
"""Its last words are there when it is dead, unless a program of its own has them open still."""


class LastWords:
    """Passes on what a program writes to stderr, and keeps the last lines."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines: deque[bytes] = deque(maxlen=LINES_KEPT)
        self._thread = threading.Thread(target=self._listen, args=(stream,), name="evodb-last-words", daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        self._thread.join(WORDS_WITHIN_S)
        return [line.decode(errors="replace").rstrip() for line in self._lines.copy()]

    def _listen(self, stream: IO[bytes]) -> None:
        with stream:
            for line in iter(lambda: stream.readline(LINE_BYTES_MAX), b""):
                self._lines.append(line)
                with suppress(OSError):  # nobody reads ours any more; the program must not block on that
                    os.write(2, line)


@dataclass(slots=True)
class Program:
    name: str
    argv: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    pause_s: float = 0.0
    not_before_s: float | None = None
    """When it may be started again, once it died."""
    deaths: int = 0
    """In a row, each before it was stable."""
    words: LastWords | None = None
    _pipe: int | None = None
    _is_up: bool = False

    def start(self) -> None:
        pipe = self._new_pipe()
        try:
            # A session of its own, so that Ctrl-C reaches the supervisor only and the order of stopping is ours.
            self.process = subprocess.Popen(
                self.argv,
                start_new_session=True,
                preexec_fn=_die_with_parent,
                stderr=subprocess.PIPE,
                env=os.environ | {announcement.VARIABLE: str(pipe)},
                pass_fds=(pipe,),
            )
        finally:
            os.close(pipe)
        assert self.process.stderr is not None
        self.words = LastWords(self.process.stderr)
        self.started_s, self.not_before_s = time.monotonic(), None

    @property
    def is_up(self) -> bool:
        """It runs, and has said since its start that it is up (lakehouse.announcement)."""
        if not self._is_up and self._pipe is not None:
            with suppress(BlockingIOError):
                self._is_up = os.read(self._pipe, 1) == b"1"
        return self._is_up and self.process is not None and self.process.poll() is None

    def _new_pipe(self) -> int:
        """The end for the program; what the one before it said does not count any more."""
        if self._pipe is not None:
            os.close(self._pipe)
        self._pipe, pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self._is_up = False
        return pipe


class Supervisor:
    def __init__(self, programs: Sequence[Program], *, say: Callable[[str], None]) -> None:
        self._programs = {program.name: program for program in programs}
        self._say = say
        self.stopping = False
        self.gave_up: Program | None = None
        """The first one that cannot stay up; whoever runs the supervisor stops the others."""

    @property
    def programs(self) -> list[Program]:
        return list(self._programs.values())

    def start(self) -> None:
        for program in self._programs.values():
            program.start()

    def ask_to_stop(self) -> None:
        """Safe to call from a signal handler; `watch` returns soon after."""
        self.stopping = True

    def watch(self) -> None:
        """Until somebody asks to stop, or a program is given up."""
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
            is_stable = lived_s >= STABLE_S
            program.deaths = 0 if is_stable else program.deaths + 1
            if program.deaths >= DEATHS_MAX:
                self.gave_up, self.stopping = program, True
                return
            program.pause_s = 0.0 if is_stable else min(max(0.5, program.pause_s * 2), PAUSE_S_MAX)
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
