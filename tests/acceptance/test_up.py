"""`evodb up` as a user has it: what it prints, what it survives, and how it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from lakehouse.torture import edge_app
from rpc.messages import ConnectMessage
from rpc.protocol import encode_message
from tests.acceptance.processes import Child, House, Process, assert_exactly_once, is_alive, until
from tests.acceptance.test_street import EAGER
from tests.services import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
BANNER = re.compile(r"children +(?P<url>\S+)\n +token +(?P<token>\S+)\n.*\n +lake +(?P<lake>\S+)\n")

LEASE_MS = 5000
NEW_KEY = """
import django, sys
django.setup()
from lakehouse.clock import now_ms
from lakehouse.parent import access
print(access.new_key("one branch", scopes=["ingest"], source_pattern=sys.argv[1], now_ms=now_ms())[1])
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Process]]:
    """A house that is up, for tests that leave it so."""
    settings = {"up_port": free_port(), "lease_ms": LEASE_MS, "breaker_failures_max": 1, "breaker_open_ms": 500}
    with House(tmp_path_factory.mktemp("up"), **settings) as house:
        house.prepare(**EAGER)
        up = house.up()
        start(up)
        yield house, up


def start(up: Process) -> None:
    """Start it and wait until it says that it is up."""
    before = up.said.count("EvoDB is up")
    up.start()
    until(lambda: up.said.count("EvoDB is up") > before, "evodb up is up", up)
    up.tree()


def token(up: Process) -> str:
    return str(list(BANNER.finditer(up.said))[-1]["token"])


def programs(up: Process, name: str) -> list[psutil.Process]:
    """The living programs of this name directly below it."""
    return [one for one in psutil.Process(up.pid).children() if is_alive(one) and name in words(one)]


def words(process: psutil.Process) -> list[str]:
    """Its command line; none when it died a moment ago."""
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


def kill_and_wait(up: Process, name: str) -> None:
    """Kill daphne, the worker or the beat, until another one is in its place."""
    [first] = until(lambda: programs(up, name), f"{name} runs", up)
    first.kill()
    until(lambda: [one.pid for one in programs(up, name)] not in ([], [first.pid]), f"{name} is started again", up)


def knock(house: House, key: str) -> ClientConnection:
    return connect(house.url, additional_headers={"Authorization": f"Bearer {key}"}, compression=None)


def code_of(socket: ClientConnection) -> int | None:
    """The code this socket is closed with; None when it just breaks."""
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=20)
    return closed.value.rcvd and closed.value.rcvd.code


def until_streaming(house: House, child: Child, up: Process) -> None:
    """Some more of what the child writes is durable."""
    before = house.journalled()
    until(lambda: house.journalled() > before + 2, f"{child.name} streams", up, child.process)


def until_flushed(house: House, up: Process) -> None:
    until(lambda: house.journal.one("SELECT max(pending_batches) FROM lakehouse_parent") == 0, "all is flushed", up)


def test_it_says_where_children_go_and_the_token_they_need(running: tuple[House, Process]) -> None:
    house, up = running
    banner = BANNER.search(up.said)
    assert banner is not None, up.said
    assert banner["url"] == house.url
    assert banner["lake"] == str(house.settings.data_dir / "lake")
    with knock(house, banner["token"]) as socket:
        assert socket.close_code is None


@pytest.mark.parametrize("key", ["wrong", "", "evodb_" + "x" * 43])
def test_a_wrong_token_is_refused_at_the_handshake(running: tuple[House, Process], key: str) -> None:
    with pytest.raises(InvalidStatus) as refused, knock(running[0], key):
        pass
    assert refused.value.response.status_code == 401


def test_a_port_that_cannot_be_is_told_as_it_was_typed(tmp_path: Path) -> None:
    up = House(tmp_path).up()
    done = subprocess.run([*up.argv, "--port", "99999"], env=up.env, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "evodb up: --port is '99999', wanted a whole number from 1 to 65535 (port)\n",
    )


def test_a_token_that_this_user_may_not_read_is_a_sentence(tmp_path: Path) -> None:
    up = House(tmp_path).up()
    (Path(up.env["EVODB_DATA_DIR"]) / "access-token").mkdir(parents=True)
    done = subprocess.run(up.argv, env=up.env, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "access-token cannot be used: Is a directory; give the folder to this user" in done.stderr


def test_a_port_that_is_taken_is_said_and_nothing_is_started(running: tuple[House, Process]) -> None:
    house, _ = running
    second = house.up()
    done = subprocess.run(second.argv, env=second.env, cwd=second.folder, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"port {house.settings.up_port} of 127.0.0.1 is taken" in done.stderr


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("lease_ms", "abc", "EVODB_LEASE_MS is 'abc', wanted a whole number (ms)"),
        ("up_port", "70000", "EVODB_UP_PORT is '70000', wanted a whole number from 1 to 65535"),
    ],
)
def test_a_setting_that_cannot_work_is_named(tmp_path: Path, setting: str, value: str, said: str) -> None:
    house = House(tmp_path)
    house.given[setting] = value
    up = house.up()
    done = subprocess.run(up.argv, env=up.env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"evodb up: {said}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("up_host", "no-such-host.invalid", "no-such-host.invalid (EVODB_UP_HOST) is no address of this machine: "),
        ("up_host", "192.0.2.7", "192.0.2.7 (EVODB_UP_HOST) is no address of this machine, wanted one, such as"),
        ("database_url", "postgresql://evodb:sesame@127.0.0.1:1/shop", "the database shop at 127.0.0.1:1 (EVODB_DATA"),
    ],
)
def test_what_cannot_be_had_ends_the_start_with_a_sentence(tmp_path: Path, setting: str, value: str, said: str) -> None:
    house = House(tmp_path, up_port=free_port())
    house.given[setting] = value
    up = house.up()
    done = subprocess.run(up.argv, env=up.env, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr, "sesame" in done.stderr) == (1, False, False), done.stderr
    assert done.stderr.startswith(f"evodb up: {said}")


MISTYPED = """
import sys
from lakehouse import supervisor, up
supervisor.PAUSE_S_MAX, supervisor.DEATHS_MAX = 0.1, 2
sys.exit(up.command([]))
"""


def test_a_worker_that_cannot_start_ends_the_house_with_its_last_lines_and_what_to_type(tmp_path: Path) -> None:
    with House(tmp_path, up_port=free_port(), broker_url="redsi://127.0.0.1/0") as house:
        up = house.another("up", [sys.executable, "-c", MISTYPED])
        up.start()
        until(lambda: not up.is_running, "evodb up ends", up)
        assert up.running is not None
        assert up.running.returncode == 1, up.said
        assert re.search(
            r"evodb up: (worker|beat) died 2 times in a row right after its start, at last with 1", up.said
        )
        assert "No such transport: redsi" in up.said
        assert "EvoDB is up" not in up.said
        assert re.search(r"then type:\n +evodb up\nor, to see \w+ alone:\n +\S+python.* -m celery", up.said)
        assert up.left() == []


def test_whatever_is_killed_is_started_again_and_the_child_loses_nothing(running: tuple[House, Process]) -> None:
    house, up = running
    child = house.child("shop-1", token=token(up), writes_per_s_max=30)
    child.process.start()
    until_streaming(house, child, up)
    for name in ("daphne", "worker", "beat"):
        kill_and_wait(up, name)
    until_streaming(house, child, up)
    assert child.process.end() == 0, child.process.said
    until_flushed(house, up)
    assert assert_exactly_once(house, child) > 100
    assert [len(programs(up, name)) for name in ("daphne", "worker", "beat")] == [1, 1, 1]


def test_a_child_the_key_does_not_cover_is_told_so_when_it_says_its_name(running: tuple[House, Process]) -> None:
    house, _ = running
    key = house.run([sys.executable, "-c", NEW_KEY, "bank-*"]).strip()
    with knock(house, key) as socket:
        socket.send(encode_message(ConnectMessage(timestamp=0, source_do_id="shop-1", epoch=1)))
        assert code_of(socket) == 1008


def test_a_killed_supervisor_takes_its_programs_along_and_the_next_one_goes_on_until_ctrl_c(tmp_path: Path) -> None:
    """Which tells children to come back, and leaves everything acknowledged in the lake."""
    with House(tmp_path, up_port=free_port(), lease_ms=LEASE_MS) as house:
        up = house.up()
        start(up)
        key = token(up)
        child = house.child("shop-1", token=key, writes_per_s_max=30)
        child.process.start()
        until_streaming(house, child, up)
        up.kill()
        until(lambda: up.left() == [], "its programs are gone", up)
        assert house.journal.one("SELECT pending_batches FROM lakehouse_parent") > 0
        start(up)
        assert token(up) == key
        until_streaming(house, child, up)
        with knock(house, key) as socket:
            assert up.end(signal.SIGINT) == 0, up.said
            assert code_of(socket) == 1001
        assert up.said.endswith("stopped; everything acknowledged is in the lake\n")
        assert up.left() == []
        assert house.stray_files() == []
        child.process.kill()
        stored, told = house.changes(child.name), edge_app.ledger(child.database)
        assert stored == told[: len(stored)]
        assert len(stored) >= len(told) - edge_app.waiting(child.database) > 100


def test_a_drill_beside_a_child_that_streams_says_what_it_kept_and_drains_all_of_it(
    running: tuple[House, Process],
) -> None:
    house, up = running
    before = house.commit_number()
    child = house.child("shop-2", token=token(up), writes_per_s_max=30)
    child.process.start()
    until(lambda: house.commit_number() > before, "something is in the lake before", up, child.process)
    said = house.manage("drill", "--minutes", "0.1")
    assert re.search(r"breaker open, spool [1-9]\d* bytes, [1-9]\d* rows, \d+ bytes/s, full in \d+ min", said), said
    assert re.search(r"drained in [\d.]+ s\neverything that was kept is in its tables: [1-9]\d* rows", said), said
    assert child.process.end() == 0, child.process.said
    until_flushed(house, up)
    assert assert_exactly_once(house, child) > 100
    assert "green: " in house.manage("verify")


def test_the_example_of_the_readme_with_a_wrong_token_ends_with_a_sentence(
    running: tuple[House, Process], tmp_path: Path
) -> None:
    program = (ROOT / "examples" / "child.py").read_text().replace("ws://127.0.0.1:8800/ws", running[0].url)
    argv = [sys.executable, "-c", program, "evodb_wrong"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "HTTP 401: the access key is missing, wrong or not meant for child 'shop-1'" in done.stderr


def test_the_example_of_the_readme_runs_and_its_rows_are_in_the_lake(running: tuple[House, Process]) -> None:
    house, up = running
    program = (ROOT / "examples" / "child.py").read_text()
    assert "ws://127.0.0.1:8800/ws" in program
    program = program.replace("ws://127.0.0.1:8800/ws", house.url).replace("shop-1", "readme-1")
    done = subprocess.run(
        [sys.executable, "-c", program, token(up)], cwd=house.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "success=True" in done.stdout
    rows = house.lake("readme-1")
    assert [(row["_op"], row["item"], row["total"]) for row in rows] == [("INSERT", "tea", 4.5), ("UPDATE", "tea", 5.5)]
