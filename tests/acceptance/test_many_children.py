"""Two hundred children at once, and a parent that is killed while they send: everything arrives once and in order."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from lakehouse.torture.edge_app import unacknowledged
from rpc import columns
from tests.acceptance.crowd_program import name_of, row
from tests.acceptance.processes import ROOT, House, Process, until
from tests.acceptance.test_street import DATABASE, new_database
from tests.services import free_port

CHILDREN, PROCESSES, ENTRIES = 200, 2, 150
PATIENCE_S = 120
JOURNAL = """
SELECT c.name, p.payload FROM lakehouse_batch b
JOIN lakehouse_child c ON c.id = b.child_id JOIN lakehouse_batchpayload p ON p.batch_id = b.id
ORDER BY c.name, b.epoch, b.sequence
"""
STORED = "SELECT coalesce(sum(entries), 0) FROM lakehouse_batch"


@pytest.fixture
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    settings: dict[str, object] = {"open": True, "up_port": free_port()}
    if DATABASE == "postgresql":
        settings["database_url"] = new_database(request.getfixturevalue("postgres_url"))
    with House(tmp_path, **settings) as house:
        yield house


def crowds(house: House) -> list[Process]:
    share = CHILDREN // PROCESSES
    program = [sys.executable, str(ROOT / "tests/acceptance/crowd_program.py"), str(house.folder), house.url]
    return [
        house.process(f"crowd-{number}", [*program, str(number * share), str(share), str(ENTRIES)])
        for number in range(PROCESSES)
    ]


def test_two_hundred_children_and_a_parent_that_is_killed_among_them(house: House) -> None:
    house.prepare()
    house.daphne.start()
    programs = crowds(house)
    try:
        for program in programs:
            program.start()
        kill_the_parent(house, programs)
        for program in programs:
            until(lambda one=program: has_ended(one), "all is sent", house.daphne, program, within_s=PATIENCE_S)
            assert program.running.returncode == 0, program.said
    finally:
        for program in programs:
            program.clean_up()
    wanted = {name_of(child): [row(child, number) for number in range(1, ENTRIES + 1)] for child in range(CHILDREN)}
    assert_same(journalled(house), wanted)
    house.manage("flush_buffers", "--wait")
    assert_same(in_the_lake(house), wanted)


def has_ended(program: Process) -> bool:
    return program.running is not None and program.running.poll() is not None


def kill_the_parent(house: House, programs: list[Process]) -> None:
    """With a third stored, and batches of many children on the wire that it never comes to read."""
    witnesses = [house.daphne, *programs]
    until(lambda: house.journal.one(STORED) >= CHILDREN * ENTRIES / 3, "a third is stored", *witnesses)
    house.daphne.send(signal.SIGSTOP)
    until(lambda: sum(map(unacknowledged, house.folder.glob("*.outbox"))) >= CHILDREN / 4, "batches wait", *witnesses)
    before = house.journal.one(STORED)
    house.daphne.kill()
    house.daphne.start()
    until(lambda: house.journal.one(STORED) > before, "children come back", *witnesses)


def journalled(house: House) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [json.loads(one.after) for _, payload in batches for one in columns.decode(bytes(payload)).entries()]
        for name, batches in groupby(house.journal.rows(JOURNAL), key=lambda found: found[0])
    }


def in_the_lake(house: House) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for stored in sorted(house.lake(), key=lambda stored: (stored["_source"], stored["_epoch"], stored["_seq"])):
        shown = {name: stored[name] for name in row(0, 0)}
        assert json.loads(stored["_after"]) == shown
        found.setdefault(stored["_source"], []).append(shown)
    return found


def assert_same(found: dict[str, list[dict[str, Any]]], wanted: dict[str, list[dict[str, Any]]]) -> None:
    """Child by child, entry by entry, in order."""
    assert sorted(found) == sorted(wanted)
    for name, rows in wanted.items():
        assert len(found[name]) == len(rows), f"{name} wrote {len(rows)} entries, {len(found[name])} arrived"
        assert found[name] == rows, name
