from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpc import outbox_meter
from rpc.outbox import Outbox
from tests.rpc.test_outbox import MIB, cut, entries, entry


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_meter, "STEP", 3)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Outbox, Outbox]]:
    """Two processes with the same outbox; the first one drains."""
    with Outbox(tmp_path / "outbox.db") as drainer, Outbox(tmp_path / "outbox.db") as writer:
        yield drainer, writer


def test_a_batch_that_another_process_cut_counts_no_more(pair: tuple[Outbox, Outbox]) -> None:
    drainer, writer = pair
    writer.append(entries(10))
    assert (whole := writer.uncut_bytes()) > 0
    cut(drainer, entries_max=4)
    assert writer.uncut_bytes() == whole // 10 * 6


def test_after_a_cut_elsewhere_only_the_entries_up_to_the_next_sum_are_read(
    pair: tuple[Outbox, Outbox], small_steps: None
) -> None:
    drainer, writer = pair
    writer.append(entries(100))
    writer.uncut_bytes()
    cut(drainer, entries_max=10)
    read: list[str] = []
    writer._file.connection.set_trace_callback(read.append)
    assert writer.uncut_bytes() == drainer.uncut_bytes()
    assert [sql.rpartition("WHERE ")[2] for sql in read if "sum(33" in sql] == ["id > 10 AND id <= 12"]


def test_sums_that_lie_near_one_another_are_not_all_kept(pair: tuple[Outbox, Outbox], small_steps: None) -> None:
    _, writer = pair
    for number in range(30):
        writer.append([entry(number)])
        writer.uncut_bytes()
    assert 10 <= len(writer._meter._sums) <= 30 * 2 // 3 + 2


@pytest.mark.parametrize("seed", range(5))
def test_whoever_does_what_all_count_the_same_bytes(
    pair: tuple[Outbox, Outbox], tmp_path: Path, small_steps: None, seed: int
) -> None:
    rng = random.Random(seed)
    drainer, writer = pair
    number = 0
    for _ in range(120):
        match rng.choice(["append", "append", "foreign append", "cut", "cut", "ack", "reject", "revive", "renew"]):
            case "append" | "foreign append" as who:
                count = rng.randint(1, 9)
                outbox = drainer if who == "append" else writer
                outbox.append(entry(n, after=b"[" + b"1" * rng.randint(0, 50) + b"]") for n in range(count))
                number += count
            case "cut":
                drainer.cut(entries_max=rng.randint(1, 12), bytes_max=MIB)
            case "ack" if batches := drainer.unacked():
                drainer.ack(rng.choice(batches).sequence)
            case "reject" if batches := drainer.unacked():
                drainer.reject(rng.choice(batches).sequence, "no")
            case "revive" if letters := drainer.dead_letters():
                drainer.revive(letters[0].sequence)
            case "renew" if rng.random() < 0.3:
                drainer.renew_epoch()
        if rng.random() < 0.5:
            with Outbox(tmp_path / "outbox.db") as fresh:
                assert drainer.uncut_bytes() == writer.uncut_bytes() == fresh.uncut_bytes()
