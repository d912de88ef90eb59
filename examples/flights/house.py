"""The parent: `evodb up` in a process tree of its own, and what /proc tells about it.

evodb up ─ daphne     sockets and journal: the one that is killed
        └─ celery     writes the tables
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

READY_S = 300
"""It ends earlier by itself when something cannot start."""
STOP_S = 120
LINES_SHOWN = 30


class Failed(Exception):
    """The demo cannot go on; the text is for who plays it."""


class House:
    """Everything it makes is in `folder`: database, lake, access token, log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "evodb-up.log"
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"ws://127.0.0.1:{self._port}/ws"

    @property
    def token(self) -> str:
        return (self._folder / "access-token").read_text().strip()

    def start(self) -> None:
        """Return when children may come."""
        command = [str(Path(sys.executable).with_name("evodb")), "up", "--port", str(self._port)]
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C is for the demo, which stops the house in order.
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + READY_S
        while "EvoDB is up" not in self.log.read_text(errors="replace"):
            self.look()
            if time.monotonic() > deadline:
                raise Failed(f"evodb up did not say within {READY_S} s that it is up. {self._last_lines()}")
            time.sleep(0.1)

    def look(self) -> None:
        """Raises Failed when it has ended, with what it said."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise Failed(f"evodb up ended with {code}. {self._last_lines()}")

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # daphne and celery die with it
        if code := self._process.wait():
            raise Failed(f"evodb up did not stop in order but with {code}. {self._last_lines()}")

    def daphne_pid(self) -> int:
        """Of the daphne that runs now."""
        assert self._process is not None
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if b"daphne" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        raise Failed(f"daphne does not run. {self._last_lines()}")

    def kill_daphne(self) -> int:
        """Without a warning, as a power cut would; returns which process it was."""
        pid = self.daphne_pid()
        os.kill(pid, signal.SIGKILL)
        return pid

    def _last_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LINES_SHOWN:]
        return f"{self.log} ends with:\n" + "\n".join(f"    {line}" for line in lines)


def settle_in(folder: Path) -> None:
    """A fresh installation in this folder, for this process and its children, whatever the caller has set."""
    for name in [name for name in os.environ if name.startswith("EVODB_")]:
        del os.environ[name]
    os.environ |= {"EVODB_DATA_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "evodb_site.settings"}


def peak_mib(pid: int) -> float:
    """The most memory this process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _free_port() -> int:
    """Below those that systems give to outgoing connections: one of them might take it while daphne is dead."""
    ports = random.sample(range(10_000, 30_000), 100)
    return next(port for port in ports if not _listens(port))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
