from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from rpc import outbox_salvage
from rpc.entries import RawEntry
from rpc.errors import OutboxCorruptError
from rpc.outbox import Outbox
from rpc.outbox_salvage import salvage, salvage_dead_letters
from tests.rpc.test_outbox import NOW_MS, cut, entries, entry
from tests.rpc.test_outbox_damage import PAGE, kept_aside, zero_pages


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def long(count: int) -> list[RawEntry]:
    return [entry(number, after=b'"' + b"%06d" % number * 20 + b'"') for number in range(count)]


def fill(path: Path, count: int) -> None:
    with Outbox(path) as outbox:
        outbox.append(long(count))


def test_a_whole_file_gives_all_its_entries_as_they_were(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.append(long(50))
        outbox.append([RawEntry(0, 5, 2, b"t", b"1", b'{"a":1}', b"", b'{"m":1}')])
        outbox.ack(cut(outbox, entries_max=10).sequence)
        cut(outbox, entries_max=10)
    found = list(salvage(path))
    assert [entry.sequence for entry in found] == list(range(11, 52))
    assert [entry._replace(sequence=0) for entry in found[:-1]] == long(50)[10:]
    assert found[-1] == RawEntry(51, 5, 2, b"t", b"1", b'{"a":1}', b"", b'{"m":1}')


@pytest.mark.parametrize("every", [2, 3, 10, 50])
def test_entries_around_lost_pages_are_found(path: Path, every: int, caplog: pytest.LogCaptureFixture) -> None:
    fill(path, 3000)
    pages = path.stat().st_size // PAGE
    zero_pages(path, every=every)
    found = list(salvage(path))
    given = long(3000)
    assert all(entry._replace(sequence=0) == given[entry.sequence - 1] for entry in found)
    sequences = [entry.sequence for entry in found]
    assert sequences == sorted(set(sequences))
    lost = 3000 - len(found)
    assert 0 < lost <= 3000 * 1.2 / every + 3000 * 20 / pages
    assert f"{len(found)} rows were read; {lost} numbers cannot be read" in caplog.text


@pytest.mark.parametrize("seed", range(4))
def test_noise_in_a_page_gives_fewer_entries_and_never_a_crash(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    fill(path, 500)
    data = bytearray(path.read_bytes())
    for _ in range(200):
        data[rng.randrange(2 * PAGE, len(data))] = rng.randrange(256)
    path.write_bytes(data)
    found = list(salvage(path))
    assert len(found) <= 500
    with Outbox(path.with_name("new.db")) as outbox:
        assert outbox.append(found) == len(found)


def test_what_is_kept_aside_can_be_appended_to_the_new_outbox(path: Path) -> None:
    fill(path, 1000)
    zero_pages(path, every=7)
    with Outbox(path, keep_corrupt_aside=True) as outbox:
        (aside,) = kept_aside(path)
        found = list(salvage(aside))
        assert outbox.append(found) == len(found) > 700
        assert [entry.row_id for entry in salvage(path)] == [entry.row_id for entry in found]


def test_commits_that_are_only_in_the_write_ahead_log_are_found(path: Path) -> None:
    with Outbox(path.with_name("live.db")) as live:
        live.append(entries(5))
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{live.path}{suffix}", f"{path}{suffix}")
    assert [entry.row_id for entry in salvage(path)] == [b"0", b"1", b"2", b"3", b"4"]


def test_dead_letters_are_found_too(path: Path) -> None:
    with Outbox(path, now_ms=lambda: NOW_MS) as outbox:
        outbox.append(entries(4))
        outbox.reject(cut(outbox, entries_max=2).sequence, "no such table")
        outbox.reject(cut(outbox, entries_max=2).sequence, "nor this")
        letters = outbox.dead_letters()
    assert list(salvage_dead_letters(path)) == letters
    assert list(salvage(path)) == []


def test_reading_leaves_nothing_behind(path: Path) -> None:
    fill(path, 10)
    before = path.read_bytes()
    files = set(path.parent.iterdir())
    assert len(list(salvage(path))) == 10
    assert set(path.parent.iterdir()) == files
    assert path.read_bytes() == before


def test_without_the_root_of_the_table_reading_ends_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox_salvage, "FAILED_READS_MAX", 500)
    fill(path, 3000)
    connection = sqlite3.connect(path)
    root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = '_evodb_change'").fetchone()[0]
    connection.close()
    data = bytearray(path.read_bytes())
    data[(root - 1) * PAGE : root * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    assert list(salvage(path)) == []
    assert "was given up" in caplog.text


@pytest.mark.parametrize("content", [b"not a database" * 500, b""])
def test_a_file_that_sqlite_cannot_read_at_all_is_said(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(OutboxCorruptError, match=r"cannot be read as an outbox, `sqlite3 .* \.recover` may find more"):
        list(salvage(path))


def test_a_file_that_is_not_there_is_not_made(path: Path) -> None:
    with pytest.raises(OutboxCorruptError, match="unable to open"):
        list(salvage(path))
    assert not path.exists()
