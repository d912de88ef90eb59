from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpc import outbox_fsync
from rpc.outbox import Outbox, OutboxBatch
from rpc.outbox_fsync import GroupedFsync
from tests.rpc.test_outbox import MIB, cut, entries, row_ids

NEVER_MS = 3_600_000
"""So late that no timer fires within a test."""
PATIENCE_S = 30


class Commits:
    """Under which `synchronous` each commit of a connection was made: FULL syncs the WAL, NORMAL does not."""

    def __init__(self, outbox: Outbox) -> None:
        connection = outbox._file.connection
        self.levels: list[str] = []
        self._level = {1: "NORMAL", 2: "FULL"}[connection.execute("PRAGMA synchronous").fetchone()[0]]
        connection.set_trace_callback(self._trace)

    def _trace(self, sql: str) -> None:
        if sql.startswith("PRAGMA synchronous = "):
            self._level = sql.rpartition(" ")[2]
        elif sql == "COMMIT":
            self.levels.append(self._level)

    def taken(self) -> list[str]:
        levels, self.levels = self.levels, []
        return levels


class Syncs:
    """Stands for os.fsync: syncs, remembers, and may be awaited."""

    def __init__(self) -> None:
        self.count = 0
        self.error: OSError | None = None
        self._happened = threading.Condition()

    def __call__(self, fd: int) -> None:
        with self._happened:
            if self.error is not None:
                raise self.error
            os.fdatasync(fd)
            self.count += 1
            self._happened.notify_all()

    def wait(self, count: int) -> None:
        with self._happened:
            assert self._happened.wait_for(lambda: self.count >= count, PATIENCE_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    made = Syncs()
    monkeypatch.setattr(outbox_fsync.os, "fsync", made)
    return made


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fsync of")]


def test_every_append_is_fsynced_before_it_returns_when_nothing_else_is_said(path: Path, syncs: Syncs) -> None:
    with Outbox(path) as outbox:
        commits = Commits(outbox)
        for _ in range(3):
            outbox.append(entries(1))
        assert commits.taken() == ["FULL"] * 3
        assert our_threads() == []
    assert syncs.count == 0


def test_with_time_an_append_does_not_wait_for_the_disk_and_a_cut_does(path: Path) -> None:
    with Outbox(path, fsync_within_ms=NEVER_MS) as outbox:
        commits = Commits(outbox)
        outbox.append(entries(2))
        outbox.append(entries(2))
        assert commits.taken() == ["NORMAL", "NORMAL"]
        batch = cut(outbox, entries_max=2)
        assert commits.taken() == ["FULL"]
        outbox.append(entries(1))
        outbox.ack(batch.sequence)
        assert commits.taken() == ["NORMAL", "NORMAL"]
        outbox.reject(cut(outbox).sequence, "no")
        outbox.revive(2)
        outbox.renew_epoch()
        assert commits.taken() == ["FULL"] * 4


def test_what_one_process_appended_without_fsync_another_cuts_with_one(path: Path) -> None:
    with Outbox(path, fsync_within_ms=NEVER_MS) as writer, Outbox(path, fsync_within_ms=NEVER_MS) as drainer:
        writer.append(entries(2))
        commits = Commits(drainer)
        assert row_ids(cut(drainer)) == [0, 1]
        assert commits.taken() == ["FULL"]


def test_appends_within_some_ms_share_one_fsync(path: Path, syncs: Syncs) -> None:
    with Outbox(path, fsync_within_ms=200) as outbox:
        for _ in range(20):
            outbox.append(entries(1))
        syncs.wait(1)
        assert syncs.count < 20
        before = syncs.count
        outbox.append(entries(1))
        syncs.wait(before + 1)


def test_the_thread_ends_with_the_last_fsync_and_begins_with_the_next_append(path: Path, syncs: Syncs) -> None:
    with Outbox(path, fsync_within_ms=1) as outbox:
        for _ in range(2):
            outbox.append(entries(1))
            for thread in our_threads():
                thread.join(PATIENCE_S)
            assert our_threads() == []
        assert syncs.count == 2


def test_closing_syncs_what_is_due_and_ends_the_thread(path: Path, syncs: Syncs) -> None:
    outbox = Outbox(path, fsync_within_ms=NEVER_MS)
    outbox.append(entries(1))
    assert len(our_threads()) == 1
    outbox.close()
    outbox.close()
    assert our_threads() == []
    assert syncs.count == 1


EXITING = """
import os, sys
from rpc import outbox_fsync
from rpc.entries import RawEntry
from rpc.outbox import Outbox
real = os.fsync
def fsync(fd):
    real(fd)
    os.write(1, b"synced")
outbox_fsync.os.fsync = fsync
Outbox(sys.argv[1], fsync_within_ms=3_600_000).append([RawEntry(0, 1, 0, b"t", b"1", b"", b"{}")])
"""


def test_a_process_that_ends_without_closing_syncs_and_does_not_wait_for_the_timer(path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", EXITING, str(path)], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"synced", b"")
    with Outbox(path) as outbox:
        assert outbox.uncut_entries() == 1


def test_when_an_fsync_fails_it_is_said_and_each_append_makes_its_own(
    path: Path, syncs: Syncs, caplog: pytest.LogCaptureFixture
) -> None:
    with Outbox(path, fsync_within_ms=1) as outbox:
        commits = Commits(outbox)
        syncs.error = OSError(5, "Input/output error")
        outbox.append(entries(1))
        for thread in our_threads():
            thread.join(PATIENCE_S)
        assert "Input/output error; what was appended lately may not survive a power cut" in caplog.text
        outbox.append(entries(1))
        assert commits.taken() == ["NORMAL", "FULL"]
        assert our_threads() == []


def test_a_commit_during_an_fsync_gets_the_next_one(path: Path) -> None:
    path.touch()
    grouped: GroupedFsync
    calls: list[int] = []

    def fsync(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            grouped.note()

    grouped = GroupedFsync(str(path), within_ms=0, fsync=fsync)
    grouped.note()
    for thread in our_threads():
        thread.join(PATIENCE_S)
    assert len(calls) == 2
    grouped.close()


def test_an_outbox_that_is_forgotten_unclosed_leaves_no_file_open(path: Path) -> None:
    path.touch()
    grouped = GroupedFsync(str(path), within_ms=0)
    fd = grouped._fd
    os.fstat(fd)
    del grouped
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_an_outbox_in_memory_has_nothing_to_sync(syncs: Syncs) -> None:
    with Outbox(":memory:", fsync_within_ms=1) as outbox:
        outbox.append(entries(1))
        assert our_threads() == []
    assert syncs.count == 0


@pytest.mark.parametrize("within", [-1, 1.5, True, None, 2**70])
def test_a_time_that_is_none_is_refused(path: Path, within: object) -> None:
    with pytest.raises(ValueError, match="wanted a whole number of 0 to 9000000000000 ms"):
        Outbox(path, fsync_within_ms=within)  # type: ignore[arg-type]


class Disk:
    """What a power cut leaves of an outbox in the worst case: its files as they were at the last fsync."""

    def __init__(self, outbox: Outbox, folder: Path) -> None:
        self._outbox = outbox
        self._commits = Commits(outbox)
        self._folder = folder
        folder.mkdir()
        self.look(forced=True)

    def look(self, *, forced: bool = False) -> None:
        """To be called after each call of the outbox, when nobody writes."""
        if forced or "FULL" in self._commits.taken():
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{self._outbox.path}{suffix}", self._folder / f"disk{suffix}")

    def outbox_after_power_cut(self, number: int) -> Outbox:
        for suffix in ("", "-wal"):
            shutil.copyfile(self._folder / f"disk{suffix}", self._folder / f"cut{number}{suffix}")
        return Outbox(self._folder / f"cut{number}")


@pytest.fixture
def grouped(path: Path) -> Iterator[Outbox]:
    with Outbox(path, fsync_within_ms=NEVER_MS) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(5))
def test_no_sequence_that_left_means_anything_else_after_a_power_cut(
    grouped: Outbox, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    disk = Disk(grouped, tmp_path / "disk")
    left: dict[int, OutboxBatch] = {}
    lost = number = 0
    for step in range(60):
        action = rng.choice(["append", "append", "cut", "ack"])
        if action == "append":
            count = rng.randint(1, 5)
            grouped.append(entries(count, start=number))
            number += count
        elif action == "cut" and (batch := grouped.cut(entries_max=rng.randint(1, 6), bytes_max=MIB)):
            left[batch.sequence] = batch
        elif action == "ack" and left:
            grouped.ack(rng.choice(list(left)))
        disk.look()
        if rng.random() < 0.3:
            with disk.outbox_after_power_cut(step) as after:
                assert after.last_sequence == grouped.last_sequence
                assert all(left[batch.sequence] == batch for batch in after.unacked())
                kept = {batch.sequence for batch in after.unacked()}
                assert {batch.sequence for batch in grouped.unacked()} <= kept
                lost += grouped.uncut_entries() - after.uncut_entries()
                after.append(entries(1, start=-1))
                later = cut(after)
                assert later.first > max((batch.last for batch in left.values()), default=0)
    assert lost, "no power cut came at a bad moment"
