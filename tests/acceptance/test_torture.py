"""One round of `manage.py torture` by a fixed seed; a run of the suite takes its own database, as in test_street."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lakehouse.torture import afterwards, faults, report, rounds
from lakehouse.torture.erasure import Erasure
from lakehouse.torture.house import ROOT, Journal
from lakehouse.torture.rounds import Round
from lakehouse.torture.services import Postgres
from lakehouse.torture.town import Plan, Town
from tests.acceptance.processes import PreloadedHouse

DATABASE = os.environ.get("EVODB_TEST_DATABASE", "sqlite")
SEED, PLAN = {
    "sqlite": ("ci-38", Plan(database="sqlite", lake="folder")),
    "postgresql": ("ci-20", Plan(database="postgresql", lake="s3")),
}[DATABASE]
MET = {"sqlite": {"erased", "refreshed", "expire"}, "postgresql": {"refreshed", "beats"}}[DATABASE]
"""In its first round these seeds do so."""


def test_a_round_of_torture_leaves_source_and_lake_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.torture.town.House", PreloadedHouse)
    with Town(tmp_path, PLAN, random.Random(SEED)) as town:
        found = rounds.one(town, SEED, 1)
    assert found.wrong == []
    assert found.changes > 500
    assert len(found.faults) >= rounds.FAULTS_PER_ROUND[0]
    assert {word for word in MET if word in " ".join(found.faults)} == MET


def test_the_same_seed_and_round_choose_the_same_faults(tmp_path: Path) -> None:
    def chosen() -> list[str]:
        town = Town(tmp_path / "town", Plan(), random.Random(SEED))
        town.shops = [town.house.child(f"shop-{n}") for n in range(3)]
        dice = random.Random(f"{SEED}/7")
        return [faults.choose(dice, town).name for _ in range(20)]

    assert chosen() == chosen()
    assert len(set(chosen())) > 8


def test_a_row_that_is_missing_double_old_or_too_many_in_a_table_of_now_is_told() -> None:
    wanted = {("orders", "1"): {"v": 1}, ("orders", "2"): {"v": 2}}
    right = [("orders", "2", {"v": 2}), ("orders", "1", {"v": 1})]
    assert afterwards.difference_now(wanted, right) is None
    assert afterwards.difference_now(wanted, right[:1]) == (
        "('orders', '1') is None in the table of now, the source has {'v': 1}"
    )
    assert afterwards.difference_now(wanted, [*right, right[0]]) == "the tables of now have 3 rows of 2 row ids"
    assert "is {'v': 0} in the table" in str(afterwards.difference_now(wanted, [("orders", "1", {"v": 0}), right[0]]))
    assert "the source has None" in str(afterwards.difference_now(wanted, [*right, ("stock", "a", {})]))


def test_only_what_was_erased_is_not_wanted_any_more(tmp_path: Path) -> None:
    town = Town(tmp_path / "town", Plan(), random.Random(SEED))
    changes = [("INSERT", "orders", "1", {}), ("INSERT", "stock", "1", {}), ("INSERT", "orders", "2", {})]

    def left(child: str, *erased: Erasure) -> list[tuple[str, str]]:
        town.erasures = list(erased)
        return [one[1:3] for one in afterwards.left(town, child, changes)]

    assert left("a", Erasure("b"), Erasure("b", "1")) == [("orders", "1"), ("stock", "1"), ("orders", "2")]
    assert left("a", Erasure("a", "1")) == left("b", Erasure(row_id="1")) == [("stock", "1"), ("orders", "2")]
    assert left("a", Erasure("a")) == []
    assert Erasure(row_id="7").command == ["erase", "--table", "orders", "--row-id", "7"]
    assert Erasure("a", "7").condition == "_source = 'a' AND _row_id = '7'"


def test_the_journal_is_read_on_after_postgresql_was_away(tmp_path: Path) -> None:
    database = Postgres(tmp_path)
    try:
        database.start()
        journal = Journal(database.url)
        assert journal.one("SELECT 1") == 1
        database.stop()
        database.start()
        assert journal.one("SELECT 2") == 2
        journal.close()
    finally:
        database.close()


def test_what_is_missing_or_double_is_in_the_report_with_the_command_that_shows_it_again(tmp_path: Path) -> None:
    well, wrong = (
        Round(1, "s", ["kill -9 of daphne"], 100, 9.0),
        Round(2, "s", ["two beats"], 90, 8.0, ["shop-1: change 7"]),
    )
    markdown, as_json = report.write(tmp_path, PLAN, "s", [well, wrong])
    assert "SOURCE AND LAKE DIFFER" in markdown.read_text()
    assert f"torture --seed s --round N --database {PLAN.database}" in markdown.read_text()
    told = json.loads(as_json.read_text())
    assert (told["ok"], told["rounds"][1]["wrong"]) == (False, ["shop-1: change 7"])
    assert not report.is_well([well, wrong])


@pytest.mark.skipif(DATABASE != "sqlite", reason="it says so before it starts anything, whatever the database")
def test_a_folder_that_has_files_is_left_alone(tmp_path: Path) -> None:
    tmp_path.joinpath("mine").write_text("precious")
    command = [sys.executable, str(ROOT / "manage.py"), "torture", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "wanted an empty folder; name another one with --folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
