"""Programs that are started, killed and started again, each with an environment, a folder and a log of its own.

Of EVODB_... a program hears only what is said here. Conditions are polled until a deadline, and what did not happen is
told with the ends of the logs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

WITHIN_S = 40.0

Found = TypeVar("Found")


def environment(settings: Mapping[str, object], **more: str) -> dict[str, str]:
    """Ours without what belongs to this test run, and these settings as EVODB_..."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("EVODB_", "DJANGO_", "AWS_"))}
    wanted = {f"EVODB_{name.upper()}": str(value) for name, value in settings.items()}
    return ours | {"DJANGO_SETTINGS_MODULE": "evodb_site.settings", "PYTHONUNBUFFERED": "1"} | wanted | more


@dataclass
class Process:
    """A program that can be started again and again."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    """Its working folder; its log lies beside it."""
    running: subprocess.Popen[bytes] | None = None
    _tree: list[psutil.Process] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.name}.log")

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.argv,
                env=dict(self.env),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self.running is not None and self.running.poll() is None

    @property
    def pid(self) -> int:
        assert self.running is not None
        return self.running.pid

    def send(self, number: int) -> None:
        assert self.running is not None
        self.running.send_signal(number)

    def kill(self) -> None:
        """As kill -9 does: this process, and nobody is told."""
        assert self.running is not None
        self.tree()
        self.running.kill()
        self.running.wait()

    def end(self, number: int = signal.SIGTERM, *, within_s: float = WITHIN_S) -> int:
        """Ask it to end and return its exit code."""
        assert self.running is not None
        self.tree()
        self.send(number)
        until(
            lambda: self.running is not None and self.running.poll() is not None,
            f"{self.name} ends",
            self,
            within_s=within_s,
        )
        return int(self.running.returncode)

    def tree(self) -> list[psutil.Process]:
        """This process and all it started, as far as anybody looked, dead or alive."""
        assert self.running is not None
        with suppress(psutil.NoSuchProcess):
            known = psutil.Process(self.running.pid)
            self._tree += [one for one in (known, *known.children(recursive=True)) if one not in self._tree]
        return self._tree

    def left(self) -> list[psutil.Process]:
        """What of the tree still lives."""
        return [one for one in self._tree if is_alive(one)]

    def clean_up(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.running is None:
            return
        self.tree()
        for one in self.left():
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.running.wait()


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def until(found: Callable[[], Found], what: str, *witnesses: Process, within_s: float = WITHIN_S) -> Found:
    """Wait for something to be true and return it; else say what did not happen, with the ends of the logs."""
    deadline = time.monotonic() + within_s
    while not (result := found()):
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {one.name}\n{one.said[-3000:]}" for one in witnesses)
            raise AssertionError(f"waited {within_s:.0f} s and it did not happen: {what}\n{logs}")
        time.sleep(0.005)
    return result
