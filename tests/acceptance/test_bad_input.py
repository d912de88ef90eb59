"""What strangers and broken children may send to a real parent: it answers, its memory stays, and others are served."""

from __future__ import annotations

import json
import random
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import psutil
import pytest

from lakehouse.limits.channel import HEAD_S
from tests.acceptance.processes import House, until
from tests.acceptance.raw_socket import CLOSE, Closed, RawSocket, framed
from tests.repetition import LONG
from tests.services import free_port

MIB = 1024 * 1024
MALFORMED, FLOODS = 100_000 if LONG else 20_000, 10
BACK_AGAIN = 1000 if LONG else 200
SLOW = 300
PROXY = "127.0.0.2"
"""Trusted by the house: who comes through it has the address it tells."""
INSIDE = "10.1.1.1"
"""Not counted by address."""
BURGLAR = "127.0.0.3"
PREPARE = f"""
import django
django.setup()
from lakehouse.parent import access
for limits in ({{}}, {{"max_payload_bytes": {16 * MIB}}}):
    print(access.new_key("k", scopes=["ingest"], limits=limits, now_ms=1)[1])
"""
NOT_LOGGED = ("Traceback", "never retrieved", "Exception", "Unhandled")


class Besieged(House):
    """Only daphne runs. Whoever does not come through the proxy is counted by address."""

    key = ""
    large_key = ""

    def open(self) -> None:
        self.prepare()
        self.key, self.large_key = self.run([sys.executable, "-c", PREPARE]).split()
        self.start()

    def start(self) -> None:
        self.daphne.start()
        until(self.listens, "daphne listens", self.daphne)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.settings.up_port)) == 0

    def knock(self, path: str = "/ws", **options: str) -> RawSocket:
        """From outside, with the usual key unless another one is shown."""
        return RawSocket(self.settings.up_port, path, **{"token": self.key} | options)

    def child(self, name: str = "do-1", **options: str) -> RawSocket:
        """From inside, let in."""
        told = {"source": PROXY, "X_Forwarded_For": INSIDE, "X_Client_ID": name}
        opened = self.knock(**told | options)
        assert opened.status == 101
        return opened

    @property
    def memory_mib(self) -> float:
        return float(psutil.Process(self.daphne.pid).memory_info().rss) / MIB

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else writes into the journal and does not come to an end."""
        path = self.settings.resolved_database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                database.execute("COMMIT")


class SlowLoris(threading.Thread):
    """Handshakes that never end: a line every now and then, as long as anybody listens."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.began_s = time.monotonic()
        self.lasted_s: list[float] = []
        self._open = [
            socket.create_connection(("127.0.0.1", port), 20, source_address=(f"127.0.1.{number % 10 + 1}", 0))
            for number in range(SLOW)
        ]
        for one in self._open:
            one.sendall(b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n")
            one.settimeout(0)

    def run(self) -> None:
        while self._open:
            time.sleep(0.5)
            self._open = [one for one in self._open if self._is_open(one)]

    def _is_open(self, one: socket.socket) -> bool:
        try:
            one.sendall(b"X-Patience: a virtue\r\n")
            is_open = bool(one.recv(1))
        except BlockingIOError:
            return True
        except OSError:
            is_open = False
        self.lasted_s.append(time.monotonic() - self.began_s)
        one.close()
        return is_open


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    settings = {"up_port": free_port(), "connections_per_second": 5000, "trusted_proxies": PROXY}
    with Besieged(tmp_path_factory.mktemp("besieged"), whitelisted_ips="10.0.0.0/8", **settings) as house:
        house.open()
        yield house
        assert not [line for line in house.daphne.said.splitlines() if any(word in line for word in NOT_LOGGED)]


@pytest.fixture(scope="module", autouse=True)
def loris(house: Besieged) -> SlowLoris:
    """All the time, beside everything else."""
    loris = SlowLoris(house.settings.up_port)
    loris.start()
    return loris


def batch(number: int, *, size: int = 0, table: str = "orders", **fields: object) -> str:
    """One event as the integration guide writes it, in a message of so many bytes."""
    event = {"sequence": number, "timestamp": 1_700_000_000_000, "operation": "INSERT", "table": table, "rowId": "r"}
    message = {"type": "cdc_batch", "timestamp": 1, "correlationId": f"c-{number}", "sourceDoId": "do-1"}
    message |= {"sequenceNumber": number, "events": [event | {"after": {"id": number}}]} | fields
    text = json.dumps(message)
    return text + " " * (size - len(text))


def test_a_child_is_served_while_hundreds_of_handshakes_never_end(house: Besieged) -> None:
    with house.child("patient") as shop:
        assert shop.ask(batch(1))["status"] == "ok"


def test_malformed_frames_by_the_ten_thousand_are_answered_and_none_is_kept(house: Besieged) -> None:
    """Over ten sockets, for none is read faster than its limit on messages allows."""
    junk = ["", b"", "{", "null", b"\xc2\xcd\x01\x01", b"\x00" * 64, batch(7, table="../../escape")[:-1], "x" * 1000]
    wave = b"".join(map(framed, junk)) * (MALFORMED // len(junk) // FLOODS)
    with ExitStack() as stack, house.child("neighbour") as neighbour:
        floods = [stack.enter_context(house.child(f"flood-{number}")) for number in range(FLOODS)]
        assert all(flood.ask(batch(0))["status"] == "ok" for flood in floods)
        before_mib = house.memory_mib
        senders = [threading.Thread(target=flood.socket.sendall, args=(wave,), daemon=True) for flood in floods]
        for sender in senders:
            sender.start()
        reasons: Counter[str] = Counter()
        for number, flood in enumerate(floods):
            reasons += Counter(flood.answer()["reason"] for _ in range(MALFORMED // FLOODS))
            if number == FLOODS // 2:
                assert neighbour.ask(batch(1))["status"] == "ok"
        for sender in senders:
            sender.join()
        assert reasons == {"invalid_format": MALFORMED}
        assert house.memory_mib - before_mib < (32 if LONG else 12)
        until(lambda: floods[0].ask(batch(1)).get("status") == "ok", "the child has a token again", house.daphne)


def test_bytes_that_are_no_frames_end_their_connection_and_nothing_else(house: Besieged) -> None:
    dice = random.Random(7)
    codes = set()
    for number in range(300):
        with house.child("noise") as noise:
            noise.say("ping")
            noise.socket.sendall(dice.randbytes(dice.randrange(2, 200)) + framed("ping") * (number % 3))
            with suppress(OSError):  # it may have been ended by now
                noise.say(b"", CLOSE)
                noise.socket.shutdown(socket.SHUT_WR)
            heard = "pong"
            while not isinstance(heard, Closed):
                heard = noise.hear()
            codes.add(heard.code)
    assert codes <= {None, 1000, 1002, 1007, 1009}
    assert 1002 in codes


def test_a_child_that_floods_us_while_the_database_is_away_is_not_read_from(house: Besieged) -> None:
    before_mib, hello = house.memory_mib, json.dumps({"type": "connect", "timestamp": 1, "sourceDoId": "do-1"})
    with house.child("pushy") as pushy:
        with house.locked():
            pushy.say(hello)
            pushy.socket.settimeout(1)
            with pytest.raises(TimeoutError):
                pushy.socket.sendall(framed(hello + " " * MIB) * 256)
            assert house.memory_mib - before_mib < 32
        pushy.socket.settimeout(20)
        assert pushy.answer()["type"] == "status"


@pytest.mark.parametrize("size", [4 * MIB, 16 * MIB])
def test_a_batch_may_be_as_large_as_its_key_allows_and_no_byte_larger(house: Besieged, size: int) -> None:
    with house.child(f"large-{size}", token=house.large_key if size > 4 * MIB else house.key) as shop:
        assert shop.ask(batch(1, size=size))["status"] == "ok"
        if size == 4 * MIB:
            nack = shop.ask(batch(2, size=size + 1))
            sizes = {"maxSize": size, "actualSize": size + 1, "receivedSize": size + 1}
            told = {"reason": "payload_too_large", "sequenceNumber": 2, "correlationId": "c-2", "shouldRetry": False}
            assert nack.items() >= (sizes | told).items()
        else:
            begun = framed(batch(2, size=size + 1))[:1000]
            shop.socket.sendall(begun)
            closed = shop.answer()
            assert closed.code == 1009
            assert str(size) in closed.reason


def test_the_third_batch_that_is_too_large_ends_the_connection_and_says_why(house: Besieged) -> None:
    with house.child("greedy") as greedy:
        for number in range(3):
            assert greedy.ask(batch(number, size=4 * MIB + 1))["reason"] == "payload_too_large"
        assert greedy.hear() == Closed(1008, "Too many size violations")
    with house.child("greedy") as greedy:
        assert greedy.ask(batch(1))["status"] == "ok"


def test_a_child_that_reconnects_again_and_again_is_never_locked_out(house: Besieged) -> None:
    for number in range(BACK_AGAIN):
        with house.child("restless") as restless:
            if number % 3 == 0:
                restless.say(batch(number))
            elif number % 3 == 1:
                restless.say(b"", 8)
    with house.child("restless") as restless:
        assert restless.ask(batch(BACK_AGAIN))["status"] == "ok"
        until(lambda: connected(restless) == 1, "all before are forgotten", house.daphne)


def connected(child: RawSocket) -> int:
    """How many connections of its parent there are."""
    found: int = child.ask('{"type":"connect","timestamp":1,"sourceDoId":"do-1"}')["connectedChildren"]
    return found


def test_a_forged_x_forwarded_for_opens_no_eleventh_connection(house: Besieged) -> None:
    came = [house.knock(X_Forwarded_For=f"203.0.113.{number}, {INSIDE}") for number in range(11)]
    assert [one.status for one in came] == [101] * 10 + [429]
    assert came[-1].headers["retry-after"] == "1"
    assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= set(came[-1].headers)
    refusal = {"error": "Too Many Requests", "reason": "ip_limit", "retryAfter": 1, "clientIp": "127.0.0.xxx"}
    assert came[-1].body() == refusal
    for one in came:
        one.drop()
    until(lambda: status_of(house) == 101, "there is room again", house.daphne)


def status_of(house: Besieged, **options: str) -> int:
    with house.knock(**options) as found:
        return found.status


def test_whoever_tries_keys_is_not_heard_after_ten_of_them(house: Besieged) -> None:
    wrong = [status_of(house, source=BURGLAR, token=f"evodb_{number:043}") for number in range(12)]
    assert wrong == [401] * 10 + [429] * 2
    with house.knock(f"/ws?token={house.key}", source=BURGLAR, X_Forwarded_For=INSIDE) as found:
        assert found.status == 429
        assert int(found.headers["retry-after"]) >= 1
        assert found.body()["reason"] == "rate_limited"
    with house.child("innocent") as innocent:
        assert innocent.ask(batch(1))["status"] == "ok"


@pytest.mark.parametrize(
    "path",
    [
        "/ws/..",
        "/ws/../../etc/passwd",
        "/ws/%2e%2e%2f%2e%2e%2fescape",
        "/ws/..%2fescape",
        "/ws/a%00b",
        "/ws/.hidden",
        "/ws/a%2Fb",
        "/ws?table=../../escape",
        "/ws?table=..%2F..%2Fescape",
        "/ws?table=a%00b",
        "/ws?table=a%5C..%5Cb",
    ],
)
def test_no_parent_lies_outside_of_the_house(house: Besieged, path: str) -> None:
    with house.knock(path, source=PROXY, X_Forwarded_For=INSIDE) as found:
        assert found.status in {400, 403}
    assert house.journal.rows("SELECT name FROM lakehouse_parent") == [("default",)]


def test_no_table_lies_outside_of_the_house(house: Besieged) -> None:
    with house.child("burrower") as burrower:
        outside = ["../../escape", "..", ".", "/etc/passwd", "a/b", "a\\b", "a\x00b", "a b", "%2e%2e", "t" * 256, "é"]
        for number, table in enumerate(outside):
            nack = burrower.ask(batch(number, table=table))
            assert (nack["reason"], nack["sequenceNumber"]) == ("invalid_format", number)
            assert nack["errorMessage"].startswith("events[0].table: ")
    assert house.stray_files() == []


def test_a_handshake_that_never_ends_is_ended(loris: SlowLoris, house: Besieged) -> None:
    loris.join(HEAD_S + 20)
    assert len(loris.lasted_s) == SLOW
    assert status_of(house) == 101


def test_a_process_that_is_asked_to_stop_says_so_answers_what_it_took_and_leaves(house: Besieged) -> None:
    """And whoever sends the rest again to the next one finds everything stored once."""
    with house.child("steady") as steady:
        assert steady.ask(batch(0))["status"] == "ok"
        with house.locked():
            for number in range(1, 21):
                steady.say(batch(number))
            assert steady.ask('{"type":"heartbeat","timestamp":7,"sourceDoId":"do-1"}')["timestamp"] == 7
            house.daphne.send(signal.SIGTERM)
            until(lambda: not house.listens(), "daphne stops listening", house.daphne)
            for number in range(21, 26):
                nack = steady.ask(batch(number))
                assert (nack["sequenceNumber"], nack["reason"]) == (number, "shutting_down")
                assert (nack["shouldRetry"], nack["retryDelayMs"]) == (True, 1000)
        acks = [steady.answer() for _ in range(20)]
        assert [(ack["sequenceNumber"], ack["status"]) for ack in acks] == [(number, "ok") for number in range(1, 21)]
        assert steady.hear() == Closed(1001)
    assert house.daphne.end(0, within_s=10) == 0
    assert house.journal.rows("SELECT DISTINCT state FROM lakehouse_child") == [("gone",)]
    house.start()
    with house.child("steady") as steady:
        for number in range(1, 26):
            assert steady.ask(batch(number, isRetry=True))["status"] == ("duplicate" if number < 21 else "ok")
    counted = "SELECT sum(entries) FROM lakehouse_child WHERE name = 'steady'"
    assert house.journal.one(counted) == 26
