"""A real Pushpin in front of a house, with the configuration that examples/pushpin gives to operators.

Only folders, ports and the key are put in the place of those of the example; what a test proves holds for that file.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.acceptance.processes import ROOT, Process, environment, is_alive, until
from tests.services import free_port

EXAMPLE = ROOT / "examples/pushpin"
PROGRAMS = ("pushpin", "condure", "zurl")
INSTALL = "apt-get install --no-install-recommends pushpin zurl"
KEY = "a key of at least thirty-two characters"


class Pushpin:
    """Pushpin and zurl, and where children connect."""

    def __init__(self, folder: Path, house_port: int) -> None:
        self.port = free_port()
        self._folder = folder
        places = {
            "/var/run/pushpin": f"{folder}/run",
            "/var/run/zurl": f"{folder}/zurl",
            "/var/log/pushpin": f"{folder}/log",
            "http_port=7999": f"http_port=127.0.0.1:{self.port}",
            "change-me-change-me-change-me-change-me": KEY,
            "127.0.0.1:8800": f"127.0.0.1:{house_port}",
        }
        for name in ("run", "zurl", "log"):
            (folder / name).mkdir()
        for name in ("pushpin.conf", "routes", "zurl.conf"):
            (folder / name).write_text(_replaced((EXAMPLE / name).read_text(), places))
        self.zurl = self._process("zurl", "zurl", f"--config={folder}/zurl.conf", "--loglevel=1")
        self.pushpin = self._process("pushpin", "pushpin", "--config", f"{folder}/pushpin.conf", "--merge-output")

    @property
    def url(self) -> str:
        """Where sockets are held while they sleep."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def awake_url(self) -> str:
        """Where they go through."""
        return f"ws://127.0.0.1:{self.port}/awake/ws"

    @property
    def said(self) -> str:
        return self.pushpin.said + self.zurl.said

    def start(self) -> None:
        self.zurl.start()
        self.pushpin.start()
        until(lambda: listens(self.port), "Pushpin listens", self.pushpin, self.zurl)

    def clean_up(self) -> None:
        self.pushpin.clean_up()
        self.zurl.clean_up()

    def processes(self) -> list[psutil.Process]:
        """All that live now."""
        return [one for process in (self.pushpin, self.zurl) for one in process.tree() if is_alive(one)]

    def memory_bytes(self) -> int:
        """What they hold."""
        return sum(one.memory_info().rss for one in self.processes())

    def _process(self, name: str, *argv: str) -> Process:
        return Process(name, argv, environment({}), self._folder / "cwd")


@contextmanager
def running(house_port: int) -> Iterator[Pushpin]:
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        refuse = pytest.fail if os.environ.get("EVODB_TEST_COMPLETE") else pytest.skip
        refuse(f"{', '.join(missing)} not installed; on Debian and Ubuntu: {INSTALL}")
    # Not pytest's folder: the path of a Unix socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="evodb-pushpin-"))
    pushpin = Pushpin(folder, house_port)
    try:
        pushpin.start()
        yield pushpin
    finally:
        pushpin.clean_up()
        shutil.rmtree(folder, ignore_errors=True)


def _replaced(text: str, places: dict[str, str]) -> str:
    for old, new in places.items():
        text = text.replace(old, new)
    return text


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
