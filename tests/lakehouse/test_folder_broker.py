"""The broker of plain files, between processes that are killed and read at bad moments."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty

import pytest
from kombu import Connection, Queue
from kombu.simple import SimpleQueue
from kombu.transport.virtual.base import BrokerState

from lakehouse import folder_broker

FOLDERS = ("queue", "processed", "control")


def connection(folder: Path) -> Connection:
    folder_broker.register()
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)
    queue, processed, control = (str(folder / name) for name in FOLDERS)
    options = {"data_folder_in": queue, "data_folder_out": queue, "processed_folder": processed}
    return Connection("folder://localhost", transport_options={**options, "control_folder": control})


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """kombu remembers for the life of a process what it bound, whatever the folder."""
    monkeypatch.setattr(folder_broker.Transport, "global_state", BrokerState())


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[SimpleQueue]:
    with connection(tmp_path) as opened, opened.SimpleQueue("tasks") as queue:
        yield queue


def received(queue: SimpleQueue, most: int = 1000) -> list[object]:
    found: list[object] = []
    while len(found) < most:
        try:
            message = queue.get(block=False)
        except Empty:
            return found
        message.ack()
        found.append(message.payload)
    return found


def test_what_is_sent_arrives_once_and_in_order(tasks: SimpleQueue) -> None:
    for number in range(3):
        tasks.put({"number": number})
    assert received(tasks) == [{"number": number} for number in range(3)]
    assert received(tasks) == []


def test_a_worker_goes_on_when_the_power_went_while_a_message_was_written(
    tasks: SimpleQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "queue" / "1_0.tasks.msg").write_bytes(b"")
    (tmp_path / "queue" / "2_0.tasks.msg").write_bytes(b'{"body": "')
    tasks.put("whole")
    with caplog.at_level(logging.WARNING):
        assert received(tasks) == ["whole"]
    assert "a message of 0 bytes in queue tasks is torn; it is passed over" in caplog.text


def test_torn_bindings_are_written_anew_by_the_next_worker_that_starts(
    tasks: SimpleQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "control" / "tasks.exchange").write_bytes(b"")
    monkeypatch.setattr(folder_broker.Transport, "global_state", BrokerState())
    with connection(tmp_path) as opened:
        Queue("tasks", tasks.queue.exchange, "tasks")(opened.default_channel).declare()
    tasks.put("heard")
    assert received(tasks) == ["heard"]


WRITER = """
import sys
from pathlib import Path
from tests.lakehouse.test_folder_broker import connection
with connection(Path(sys.argv[1])) as opened, opened.SimpleQueue("tasks") as tasks:
    print("writes", flush=True)
    for _ in range(2000):
        tasks.put("x" * 10_000)
    sys.stdin.read()
"""


def test_a_reader_beside_a_writer_that_is_killed_reads_whole_messages_only(
    tasks: SimpleQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[object] = []
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            command = [sys.executable, "-c", WRITER, str(tmp_path)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
                assert writer.stdout is not None
                writer.stdout.readline()
                wanted = len(found) + 50
                while len(found) < wanted:
                    found += received(tasks, wanted - len(found))
                writer.kill()
    found += received(tasks, 3 * 2000)
    assert set(found) == {"x" * 10_000}
    assert "torn" not in caplog.text


def test_two_workers_never_get_the_same_message(tasks: SimpleQueue, tmp_path: Path) -> None:
    for number in range(200):
        tasks.put(number)

    def work(_: int) -> list[object]:
        with connection(tmp_path) as opened, opened.SimpleQueue("tasks") as mine:
            return received(mine)

    with ThreadPoolExecutor(4) as workers:
        found = [number for numbers in workers.map(work, range(4)) for number in numbers]
    assert sorted(found) == list(range(200))


def test_workers_that_start_together_are_all_bound(tmp_path: Path) -> None:
    def bind(number: int) -> None:
        with connection(tmp_path) as opened:
            Queue(f"queue-{number}", "shared", f"key-{number}")(opened.default_channel).declare()

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(bind, range(24)))
    with connection(tmp_path) as opened:
        bound = {row.queue for row in opened.default_channel.get_table("shared")}
    assert bound == {f"queue-{number}" for number in range(24)}
