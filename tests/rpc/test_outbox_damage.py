from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path

import pytest

from rpc import outbox_damage
from rpc.capture.sqlite import SqliteCapture
from rpc.errors import LakehouseRpcError, OutboxCorruptError
from rpc.outbox import Outbox
from rpc.outbox_lock import DrainLock, OutboxBusyError
from tests.rpc.test_outbox import MIB, NOW_MS, cut, entries, entry, row_ids

PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def zero_pages(path: Path, *, every: int, behind: int = 12) -> None:
    """Damage of the kind a bad disk leaves: whole pages gone."""
    data = bytearray(path.read_bytes())
    for page in range(behind, len(data) // PAGE, every):
        data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(data)


def filled(path: Path, count: int = 2000) -> None:
    with Outbox(path, now_ms=lambda: NOW_MS) as outbox:
        outbox.append(entry(number, after=b'"' + b"x" * 100 + b'"') for number in range(count))


def kept_aside(path: Path) -> list[Path]:
    """The files that were put aside, without what belongs to them."""
    return sorted(found for found in path.parent.glob(f"{path.name}.corrupt-*") if found.suffix[-1].isdigit())


def test_damage_that_shows_up_in_use_is_told_with_what_is_damaged_and_what_to_do(path: Path) -> None:
    filled(path)
    zero_pages(path, every=5)
    with (
        Outbox(path) as outbox,
        pytest.raises(OutboxCorruptError, match=r"malformed \(.*[Pp]age \d+.*\); .*keep_corrupt_aside=True"),
    ):
        outbox.cut(entries_max=2000, bytes_max=MIB)
    assert kept_aside(path) == []


def test_a_damaged_file_is_kept_aside_when_told_so_and_an_empty_outbox_begins(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(path)
    zero_pages(path, every=5)
    damaged = path.read_bytes()
    with caplog.at_level(logging.ERROR), Outbox(path, keep_corrupt_aside=True, now_ms=lambda: NOW_MS + 7) as outbox:
        assert (outbox.pending_entries, outbox.last_sequence, outbox.epoch) == (0, 0, NOW_MS + 7)
        outbox.append(entries(2))
        assert row_ids(cut(outbox)) == [0, 1]
    (aside,) = kept_aside(path)
    assert aside.name == f"outbox.db.corrupt-{NOW_MS + 7}"
    assert aside.read_bytes() == damaged
    assert f"It is kept as {aside}" in caplog.text


def test_a_file_that_is_no_database_is_kept_aside_byte_for_byte(path: Path) -> None:
    path.write_bytes(b"certainly not a database" * 100)
    with Outbox(path, keep_corrupt_aside=True) as outbox:
        outbox.append(entries(1))
    (aside,) = kept_aside(path)
    assert aside.read_bytes() == b"certainly not a database" * 100


def test_the_new_epoch_is_higher_also_when_the_clock_went_back(path: Path) -> None:
    filled(path)
    zero_pages(path, every=5)
    with Outbox(path, keep_corrupt_aside=True, now_ms=lambda: 5) as outbox:
        assert outbox.epoch == NOW_MS + 1


def test_a_sound_file_stays_where_it_is(path: Path) -> None:
    filled(path)
    with Outbox(path, keep_corrupt_aside=True) as outbox:
        assert (outbox.uncut_entries(), outbox.epoch) == (2000, NOW_MS)
    with Outbox(path.with_name("new.db"), keep_corrupt_aside=True) as outbox:
        outbox.append(entries(1))
    assert [found for found in path.parent.iterdir() if "corrupt" in found.name] == []


def test_a_batch_that_lost_entries_is_damage_too(path: Path) -> None:
    filled(path, 10)
    with Outbox(path) as outbox:
        cut(outbox)
        outbox._file.connection.execute("DELETE FROM _evodb_change WHERE id = 1")
        with pytest.raises(OutboxCorruptError, match=r"batch 1 has 9 of its 10 entries; .*keep_corrupt_aside=True"):
            outbox.unacked()
    with Outbox(path, keep_corrupt_aside=True) as outbox:
        assert outbox.pending_entries == 0
    assert len(kept_aside(path)) == 1


def test_nothing_that_was_kept_aside_is_ever_overwritten(path: Path) -> None:
    earlier = path.with_name(f"outbox.db.corrupt-{NOW_MS}-wal")
    earlier.write_text("precious")
    for _ in range(2):
        path.write_bytes(b"not a database" * 100)
        Outbox(path, keep_corrupt_aside=True, now_ms=lambda: NOW_MS).close()
    assert earlier.read_text() == "precious"
    names = [found.name for found in kept_aside(path)]
    assert names == [f"outbox.db.corrupt-{NOW_MS + 1}", f"outbox.db.corrupt-{NOW_MS + 2}"]


def test_the_write_ahead_log_goes_with_its_file(path: Path, tmp_path: Path) -> None:
    with Outbox(tmp_path / "live.db") as live:
        live.append(entries(5))
        live._file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        live.append([entry(5)])
        for suffix in ("-wal", "-shm"):
            shutil.copyfile(f"{live.path}{suffix}", f"{path}{suffix}")
    path.write_bytes(b"not a database" * 5000)
    log = path.with_name("outbox.db-wal").read_bytes()
    with Outbox(path, keep_corrupt_aside=True, now_ms=lambda: NOW_MS) as outbox:
        assert outbox.pending_entries == 0
    (aside,) = kept_aside(path)
    assert aside.read_bytes() == b"not a database" * 5000
    assert path.with_name(f"{aside.name}-wal").read_bytes() == log
    assert path.with_name(f"{aside.name}-shm").exists()


def test_who_dies_while_putting_aside_leaves_the_file_to_be_found_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"not a database" * 1000)
    path.with_name("outbox.db-wal").write_bytes(b"log")
    rename = Path.rename

    def dying(self: Path, target: Path) -> Path:
        if self == path:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        Outbox(path, keep_corrupt_aside=True, now_ms=lambda: NOW_MS)
    monkeypatch.undo()
    Outbox(path, keep_corrupt_aside=True, now_ms=lambda: NOW_MS + 9).close()
    assert [found.name for found in kept_aside(path)] == [f"outbox.db.corrupt-{NOW_MS + 9}"]
    assert path.with_name(f"outbox.db.corrupt-{NOW_MS}-wal").read_bytes() == b"log"


def test_a_link_to_an_outbox_still_leads_to_it(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "real.db")
    (tmp_path / "real.db").write_bytes(b"not a database" * 100)
    with Outbox(path, keep_corrupt_aside=True) as outbox:
        outbox.append(entries(1))
    assert path.is_symlink()
    with Outbox(tmp_path / "real.db") as outbox:
        assert outbox.uncut_entries() == 1
    assert len(kept_aside(tmp_path / "real.db")) == 1


def test_a_folder_that_cannot_be_written_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"not a database" * 100)

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(outbox_damage.Path, "rename", refused)
    with pytest.raises(LakehouseRpcError, match=r"cannot be kept aside.*make its folder writable"):
        Outbox(path, keep_corrupt_aside=True)
    assert path.exists()


def test_nothing_is_put_aside_while_somebody_drains_it(path: Path) -> None:
    filled(path)
    with Outbox(path) as drainer:
        cut(drainer, entries_max=10)
    zero_pages(path, every=5)
    with Outbox(path) as drainer:
        drainer.ack(77)  # has the lock from here on
        with pytest.raises(OutboxBusyError):
            Outbox(path, keep_corrupt_aside=True)
    assert kept_aside(path) == []


def test_of_two_that_find_the_damage_only_one_puts_the_file_aside(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    zero_pages(path, every=5)
    take = DrainLock.take

    def late(self: DrainLock) -> None:
        monkeypatch.undo()
        with Outbox(path, keep_corrupt_aside=True) as faster:
            faster.append(entries(3))
        take(self)

    monkeypatch.setattr(DrainLock, "take", late)
    with Outbox(path, keep_corrupt_aside=True) as slower:
        assert slower.uncut_entries() == 3
    assert len(kept_aside(path)) == 1


def test_the_lock_is_free_again_once_a_file_was_put_aside(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)
    with Outbox(path, keep_corrupt_aside=True) as opened, Outbox(path) as drainer:
        opened.append(entries(1))
        assert row_ids(cut(drainer)) == [0]


def test_a_database_of_somebody_else_is_never_put_aside(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (id)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(OutboxCorruptError, match="SqliteCapture"):
        Outbox(path, keep_corrupt_aside=True)
    assert path.read_bytes() == before
    assert kept_aside(path) == []


def test_an_outbox_of_another_format_is_never_put_aside(path: Path) -> None:
    filled(path, 1)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE _evodb_meta SET value = 2 WHERE key = 'format'")
    connection.close()
    with pytest.raises(OutboxCorruptError, match="format 2"):
        Outbox(path, keep_corrupt_aside=True)
    assert kept_aside(path) == []


def test_a_captured_database_is_its_owners_to_repair(path: Path) -> None:
    app = sqlite3.connect(path)
    app.execute("CREATE TABLE flights (id INTEGER PRIMARY KEY, text)")
    with SqliteCapture(path) as capture:
        capture.attach()
        app.executemany("INSERT INTO flights (text) VALUES (?)", [("x" * 100,)] * 3000)
        app.commit()
        app.close()
    zero_pages(path, every=3, behind=20)
    with (
        SqliteCapture(path) as capture,
        pytest.raises(OutboxCorruptError, match="restore a backup, or repair") as caught,
    ):
        capture.cut(entries_max=3000, bytes_max=4 * MIB)
    assert "keep_corrupt_aside" not in str(caught.value)
    with pytest.raises(TypeError, match="keep_corrupt_aside"):
        SqliteCapture(path, keep_corrupt_aside=True)  # type: ignore[call-arg]
