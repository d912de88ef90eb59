"""Who is here, as the metrics of a real process say, after another one was killed."""

from __future__ import annotations

import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.processes import House, until
from tests.acceptance.raw_socket import RawSocket
from tests.services import free_port

CONNECTED = re.compile(r'dolake_connected_sources\{parent="default"\} (\d+)')


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """With leases of 5.3 s."""
    with House(tmp_path, open=True, presence_interval_ms=100, up_port=free_port()) as house:
        house.prepare()
        house.daphne.start()
        until(lambda: connected(house) is not None, "daphne answers", house.daphne, within_s=90)
        yield house


def connected(house: House) -> int | None:
    """Children that the metrics call connected; None while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{house.settings.up_port}/metrics", timeout=10) as answer:
            found = CONNECTED.search(answer.read().decode())
    except (urllib.error.URLError, ConnectionError):
        return None
    return None if found is None else int(found[1])


@contextmanager
def children(house: House) -> Iterator[None]:
    """Three of them, connected."""
    with ExitStack() as stack:
        for number in range(3):
            shop = stack.enter_context(RawSocket(house.settings.up_port))
            assert shop.ask(f'{{"type":"connect","timestamp":1,"sourceDoId":"shop-{number}","epoch":1}}')
        assert connected(house) == 3
        yield


def test_the_children_of_a_process_that_was_killed_stayed_connected_for_ever(house: House) -> None:
    """And those of a process that stops are gone at once."""
    with children(house):
        house.daphne.kill()
        assert set(house.journal.rows("SELECT state FROM lakehouse_child")) == {("awake",)}
        house.daphne.start()
        until(lambda: connected(house) == 0, "nobody is connected", house.daphne)
    with children(house):
        house.daphne.end(signal.SIGTERM)
        assert set(house.journal.rows("SELECT state FROM lakehouse_child")) == {("gone",)}
        assert max(house.journal.rows("SELECT lease_until_ms FROM lakehouse_holder")) == (0,)
