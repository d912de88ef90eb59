"""Rows are sorted with little memory, and files are chosen so that no row is written too often."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse.catalog.upkeep import runs
from lakehouse.catalog.upkeep.piles import FILES_MAX, Small, piles

KIB, MIB = 2**10, 2**20


def rows(number: int, seed: int) -> pa.Table:
    dice = random.Random(seed)
    names = [dice.choice([None, "", "ä", "z", "Z", *map(str, range(50))]) for _ in range(number)]
    return pa.table({"name": names, "seq": [dice.randrange(5) for _ in range(number)], "text": ["x" * 40] * number})


@pytest.mark.parametrize("seed", range(6))
def test_runs_on_the_disk_come_back_as_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(runs, "PIECE_BYTES", 700)
    found = rows(seed * 301, seed)
    spilled = []
    monkeypatch.setattr(runs, "_spill", lambda *args, spill=runs._spill: spilled.append(args) or spill(*args))
    parts = list(runs.in_order(found.to_batches(max_chunksize=37), ["name", "seq"], tmp_path, run_bytes=9000))
    ordered = pa.concat_tables(parts) if parts else found
    expected = found.sort_by([("name", "ascending"), ("seq", "ascending")])
    assert ordered.select(["name", "seq"]).to_pylist() == expected.select(["name", "seq"]).to_pylist()
    assert (len(spilled) > 1) == (seed > 1)
    assert list(tmp_path.iterdir()) == []


def test_what_fits_into_memory_touches_no_disk(tmp_path: Path) -> None:
    [ordered] = runs.in_order(rows(100, 1).to_batches(), ["seq"], tmp_path / "nowhere")
    assert ordered["seq"].to_pylist() == sorted(ordered["seq"].to_pylist())


def test_without_a_key_rows_stay_as_they_came(tmp_path: Path) -> None:
    found = rows(100, 1)
    assert pa.concat_tables(runs.in_order(found.to_batches(max_chunksize=9), [], tmp_path)).equals(found)


def small(size_bytes: int, number: int = 0, partition: int = 0) -> Small:
    return Small(f"{partition}/{size_bytes}-{number}", "m", (partition,), size_bytes, 1)


def sizes(found: list[list[Small]]) -> list[list[int]]:
    return [[file.size_bytes for file in pile] for pile in found]


def test_too_few_files_are_not_worth_it() -> None:
    assert piles([small(KIB, n) for n in range(7)], target_bytes=MIB, files_min=8) == []
    assert sizes(piles([small(KIB, n) for n in range(8)], target_bytes=MIB, files_min=8)) == [[KIB] * 8]


def test_files_of_different_partitions_stay_apart() -> None:
    files = [small(KIB, n, n % 2) for n in range(10)]
    assert [{file.partition for file in pile} for pile in piles(files, target_bytes=MIB, files_min=4)] == [
        {(0,)},
        {(1,)},
    ]


def test_a_large_file_is_not_written_again_for_a_few_small_ones() -> None:
    files = [small(KIB, n) for n in range(8)] + [small(300 * KIB)]
    assert sizes(piles(files, target_bytes=MIB, files_min=8)) == [[KIB] * 8]
    assert sizes(piles(files, target_bytes=MIB, files_min=2, is_tiered=False)) == [[KIB] * 8 + [300 * KIB]]


def test_the_smallest_join_those_that_are_a_little_larger() -> None:
    files = [small(KIB, n) for n in range(3)] + [small(20 * KIB, n) for n in range(6)]
    assert sizes(piles(files, target_bytes=MIB, files_min=8)) == [[KIB] * 3 + [20 * KIB] * 6]


def test_a_file_that_is_large_enough_is_left_alone() -> None:
    assert piles([small(MIB - 1, n) for n in range(9)], target_bytes=MIB, files_min=2) == []


def test_a_pile_is_bounded_in_bytes_and_files() -> None:
    found = piles([small(MIB // 2, n) for n in range(9)], target_bytes=MIB, files_min=2)
    assert sizes(found) == [[MIB // 2] * 2] * 4
    many = piles([small(1, n) for n in range(FILES_MAX + 2)], target_bytes=MIB, files_min=2)
    assert [len(pile) for pile in many] == [2, FILES_MAX]


def test_no_row_is_written_again_and_again() -> None:
    """2000 flushes of 10 KiB into one day, upkeep after each."""
    files: list[Small] = []
    written: Counter[str] = Counter()
    for number in range(2000):
        files.append(small(10 * KIB, number))
        for pile in piles(files, target_bytes=128 * MIB, files_min=8):
            together = sum(file.size_bytes for file in pile)
            written["bytes"] += together
            files = [*(file for file in files if file not in pile), small(together, number)]
    assert len(files) < 30
    assert written["bytes"] < 6 * 2000 * 10 * KIB
