"""No key in any log: servers run with every log they have, keys are shown in every way, and the logs are searched."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.acceptance.processes import House, until
from tests.services import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
WRONG = "sesame-open-the-door"
APPLICATION = "evodb_site.asgi:application"
SERVERS = {
    "daphne --access-log": ("-m", "daphne", "-v", "0", "--access-log", "-", "-p", "{port}", APPLICATION),
    "daphne -v 3": ("-m", "daphne", "-v", "3", "-p", "{port}", APPLICATION),
    "uvicorn --log-level trace": ("-m", "uvicorn", "--log-level", "trace", "--port", "{port}", APPLICATION),
    "runserver": (str(ROOT / "manage.py"), "runserver", "--noreload", "127.0.0.1:{port}"),
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, str]]:
    """A house and a key of it."""
    with House(tmp_path_factory.mktemp("secrecy"), up_port=free_port()) as house:
        house.prepare()
        yield house, house.manage("accesskey", "create", "--name", "laptop", "--scope", "ingest").strip()


def ask(url: str, **headers: str) -> None:
    with contextlib.suppress(HTTPError):
        urlopen(Request(url, headers=headers), timeout=20).close()


def knock(url: str, **headers: str) -> bool:
    try:
        with connect(url, additional_headers=headers, compression=None, open_timeout=20):
            return True
    except InvalidStatus:
        return False


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_with_all_its_logs_on_prints_no_key(installed: tuple[House, str], name: str) -> None:
    (house, key), port = installed, free_port()
    argv = [sys.executable, *(part.format(port=port) for part in SERVERS[name])]
    server = house.process(name.replace(" ", ""), argv, PYTHONPATH=str(ROOT))
    server.start()
    try:
        until(lambda: _listens(port), f"{name} listens", server)
        assert knock(f"ws://127.0.0.1:{port}/ws?token={key}")
        assert knock(f"ws://127.0.0.1:{port}/ws", Authorization=f"Bearer {key}")
        assert not knock(f"ws://127.0.0.1:{port}/ws?token={WRONG}")
        assert not knock(f"ws://127.0.0.1:{port}/ws", Authorization=f"Bearer {WRONG}")
        assert not knock(f"ws://127.0.0.1:{port}/ws%3Ftoken={WRONG}")
        for url in (f"/nothing?token={key}", f"/nothing?a=1&token={WRONG}", f"/nothing%3Ftoken%3D{WRONG}"):
            ask(f"http://127.0.0.1:{port}{url}")
        ask(f"http://127.0.0.1:{port}/nothing", Authorization=f"Bearer {key}")
        ask(f"http://127.0.0.1:{port}/nothing?last=1")
        until(lambda: "/nothing?last=1" in server.said, "the last request is logged", server)
    finally:
        server.clean_up()
    assert "token=***" in server.said
    assert [line for line in server.said.splitlines() if key in line or key[10:] in line or WRONG in line] == []


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        urlopen(f"http://127.0.0.1:{port}/admin/login/", timeout=20).close()
        return True
    return False
