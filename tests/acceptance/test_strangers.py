"""What somebody without a key may cost a real parent: no disk, no memory, and no child its place."""

from __future__ import annotations

import json
import select
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import until
from tests.acceptance.raw_socket import RawSocket
from tests.acceptance.test_bad_input import INSIDE, MIB, NOT_LOGGED, PROXY, Besieged
from tests.services import free_port

STRANGER, BURGLAR, CHILD, BROWSER = "127.0.0.5", "127.0.0.6", "127.0.0.7", "127.0.0.8"
BODY_BYTES_MAX = 16 * MIB + 64 * 1024
OPEN_MAX, OF_ADDRESS_MAX = 100, 20
HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "x" * 22 + "==",
    "Sec-WebSocket-Version": "13",
}


class Caller:
    """One connection that says HTTP, as far as it likes."""

    def __init__(self, house: Besieged, source: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", house.settings.up_port), 30, source_address=(source, 0))
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def begin(self, line: str, headers: dict[str, str]) -> None:
        told = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "127.0.0.1", **headers}.items())
        self.socket.sendall(f"{line} HTTP/1.1\r\n{told}\r\n".encode())

    def pour(self, data: bytes, times: int) -> threading.Thread:
        """Go on sending, whatever is answered, until nobody takes it any more."""

        def send() -> None:
            with suppress(OSError):
                for _ in range(times):
                    self.socket.sendall(data)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        return thread

    def hear(self) -> tuple[int, Any]:
        """Status and body."""
        status, headers = int(self._file.readline().split()[1]), {}
        while line := self._file.readline().strip().decode():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = self._file.read(int(headers["content-length"]))
        return status, json.loads(body) if headers["content-type"] == "application/json" else body

    @property
    def is_open(self) -> bool:
        """Nothing came, and no end."""
        return not select.select([self.socket], [], [], 0)[0]

    def ends(self) -> bool:
        """Wait for the end; whether there was nothing before it."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    settings = {
        "up_port": free_port(),
        "trusted_proxies": PROXY,
        "whitelisted_ips": "10.0.0.0/8",
        "max_http_connections": OPEN_MAX,
        "max_http_connections_per_ip": OF_ADDRESS_MAX,
    }
    with Besieged(tmp_path_factory.mktemp("strangers"), **settings) as house:
        house.open()
        yield house
        assert not [line for line in house.daphne.said.splitlines() if any(word in line for word in NOT_LOGGED)]


def kept_bytes(house: Besieged) -> int:
    """What lies in files of the process that have no name."""
    found = 0
    for link in Path(f"/proc/{house.daphne.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            about = link.stat()
            found += about.st_size if stat.S_ISREG(about.st_mode) and about.st_nlink == 0 else 0
    return found


def get_in(house: Besieged, **options: str) -> int:
    with house.knock(**{"source": CHILD} | options) as found:
        return found.status


@pytest.mark.parametrize("path", ["/cdc", "/nothing"])
def test_a_body_of_300_mib_without_a_key_is_413_before_a_byte_of_it_is_kept(house: Besieged, path: str) -> None:
    with Caller(house, STRANGER) as stranger:
        stranger.begin(f"POST {path}", {"Content-Length": str(300 * MIB)})
        pouring, before_mib = stranger.pour(b"x" * MIB, 200), house.memory_mib
        status, document = stranger.hear()
        assert (status, document["reason"], document["maxSize"]) == (413, "payload_too_large", BODY_BYTES_MAX)
        assert document["receivedSize"] == 300 * MIB
        assert (kept_bytes(house), house.memory_mib - before_mib < 16) == (0, True)
        assert stranger.ends()
        pouring.join(30)
        assert not pouring.is_alive()
    until(lambda: get_in(house) == 101, "a child gets in", house.daphne)


def test_a_body_that_does_not_say_how_large_it_is_is_413_when_it_is_too_large(house: Besieged) -> None:
    with Caller(house, STRANGER) as stranger:
        stranger.begin("POST /cdc", {"Transfer-Encoding": "chunked"})
        stranger.pour(b"%x\r\n" % MIB + b"x" * MIB + b"\r\n", 200)
        status, document = stranger.hear()
        assert (status, document["maxSize"]) == (413, BODY_BYTES_MAX)
        assert BODY_BYTES_MAX < document["receivedSize"] < BODY_BYTES_MAX + MIB
        assert stranger.ends()
    until(lambda: kept_bytes(house) == 0, "nothing of it is kept", house.daphne)


@pytest.mark.parametrize("length", [{"Content-Length": str(200 * MIB)}, {"Transfer-Encoding": "chunked"}])
def test_a_handshake_with_a_body_is_400_and_nothing_grows(house: Besieged, length: dict[str, str]) -> None:
    with Caller(house, STRANGER) as stranger:
        before_mib = house.memory_mib
        stranger.begin("GET /ws", HANDSHAKE | {"Authorization": f"Bearer {house.key}"} | length)
        stranger.pour(b"%x\r\n" % MIB + b"x" * MIB + b"\r\n", 200)
        assert stranger.hear() == (400, {"error": "a handshake has no body; send what is to be said as frames"})
        assert stranger.ends()
        assert (kept_bytes(house), house.memory_mib - before_mib < 16) == (0, True)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_sixteen_mib_to_cdc_are_stored_when_the_key_allows_them(house: Besieged, framing: str) -> None:
    event = {"sequence": 1, "timestamp": 1_700_000_000_000, "operation": "INSERT", "table": "orders", "rowId": "r"}
    body = json.dumps({"events": [event | {"after": {"id": 1}}]}).encode().ljust(16 * MIB)
    length = {"Content-Length": str(len(body))} if framing == "length" else {"Transfer-Encoding": "chunked"}
    with Caller(house, CHILD) as child:
        child.begin("POST /cdc", {"Authorization": f"Bearer {house.large_key}"} | length)
        if framing == "chunks":
            parts = [body[start : start + 10_000] for start in range(0, len(body), 10_000)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        child.socket.sendall(body)
        assert child.hear() == (200, {"success": True, "eventsReceived": 1, "isDuplicate": False})
        child.begin("GET /health", {})
        assert child.hear() == (200, b"OK")


def test_a_body_that_comes_byte_by_byte_is_408_and_not_waited_for(house: Besieged) -> None:
    with Caller(house, STRANGER) as stranger:
        stranger.begin("POST /cdc", {"Content-Length": "100"})
        sent = 0
        while sent < 99 and not select.select([stranger.socket], [], [], 0.5)[0]:
            stranger.socket.sendall(b"x")
            sent += 1
        assert stranger.hear() == (408, {"error": "the body was not complete after 10 s"})
        assert sent < 99


def test_who_opens_connections_and_says_nothing_loses_the_oldest_and_a_browser_loses_none(house: Besieged) -> None:
    with ExitStack() as stack:
        browser = stack.enter_context(Caller(house, BROWSER))
        browser.begin("GET /health", {})
        assert browser.hear() == (200, b"OK")
        silent = [stack.enter_context(Caller(house, STRANGER)) for _ in range(3 * OF_ADDRESS_MAX)]
        assert all(one.ends() for one in silent[: 2 * OF_ADDRESS_MAX])
        assert all(one.is_open for one in silent[2 * OF_ADDRESS_MAX :])
        browser.begin("GET /health", {})
        assert browser.hear() == (200, b"OK")


def test_a_child_gets_in_while_strangers_of_many_addresses_hold_all_connections_there_may_be(house: Besieged) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(Caller(house, f"127.0.2.{number % 100 + 1}")) for number in range(2 * OPEN_MAX)]
        assert all(one.ends() for one in silent[:OPEN_MAX])
        assert all(one.is_open for one in silent[OPEN_MAX:])
        assert [get_in(house) for _ in range(3)] == [101] * 3


def test_open_sockets_are_no_connections_that_wait_for_a_request(house: Besieged) -> None:
    """Whoever became a WebSocket is counted as one, and is closed for no newcomer."""
    with ExitStack() as stack:
        told = {"token": house.key, "source": PROXY, "X_Forwarded_For": INSIDE}
        shops = [
            stack.enter_context(RawSocket(house.settings.up_port, **told, X_Client_ID=f"shop-{number}"))
            for number in range(80)
        ]
        silent = [stack.enter_context(Caller(house, f"127.0.3.{number + 1}")) for number in range(OPEN_MAX)]
        assert [one.status for one in shops] == [101] * 80
        assert all(one.is_open for one in silent)
        for shop in shops:
            shop.say("ping")
        assert [shop.hear() for shop in shops] == ["pong"] * 80


class Burglar(threading.Thread):
    """Knocks without a key as fast as it is answered."""

    def __init__(self, house: Besieged, path: str) -> None:
        super().__init__(daemon=True)
        self.heard: list[int] = []
        self._house, self._path, self._is_over = house, path, threading.Event()

    def run(self) -> None:
        while not self._is_over.is_set():
            with suppress(OSError), Caller(self._house, BURGLAR) as caller:
                method = "GET" if self._path == "/ws" else "POST"
                caller.begin(f"{method} {self._path}", HANDSHAKE if method == "GET" else {"Content-Length": "0"})
                self.heard.append(caller.hear()[0])

    def stop(self) -> None:
        self._is_over.set()
        self.join()


def test_one_stranger_without_any_key_keeps_no_child_out(house: Besieged) -> None:
    burglars = [Burglar(house, path) for path in ("/ws", "/cdc", "/flush", "/ws")]
    for one in burglars:
        one.start()
    try:
        until(lambda: sum(len(one.heard) for one in burglars) > 1000, "the stranger is at it", house.daphne)
        assert [get_in(house) for _ in range(20)] == [101] * 20
    finally:
        for one in burglars:
            one.stop()
    heard = [status for one in burglars for status in one.heard]
    assert set(heard) == {401, 429}
    assert heard.count(401) < 100
