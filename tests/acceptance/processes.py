"""What the promise comes down to, for tests with real processes (lakehouse.torture), and a house that waits less."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lakehouse.torture import edge_app
from lakehouse.torture import house as usual
from lakehouse.torture.compare import difference, document, state_of
from lakehouse.torture.house import ROOT, Child
from lakehouse.torture.process import WITHIN_S, Process, environment, is_alive, until
from rpc.commands import verify
from rpc.failpoints import VARIABLE, Failpoint

__all__ = [
    "ROOT",
    "WITHIN_S",
    "Child",
    "House",
    "Process",
    "assert_exactly_once",
    "assert_sums_agree",
    "dies_at",
    "document",
    "environment",
    "is_alive",
    "start_with",
    "until",
]


class House(usual.House):
    """A house with a beat that asks ten times as often."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self.beat.argv = ["tests.acceptance.hasty" if word == "evodb_site" else word for word in self.beat.argv]
        self.beat.env = {**self.beat.env, "PYTHONPATH": str(ROOT)}


def assert_exactly_once(house: House, child: Child) -> int:
    """Source and lake, change by change and row by row; returns how many changes there were."""
    wanted, found = edge_app.ledger(child.database), house.changes(child.name)
    assert difference(wanted, found) is None, f"{child.name}: {difference(wanted, found)}"
    assert state_of(found) == edge_app.state(child.database)
    return len(found)


def assert_sums_agree(house: House) -> None:
    """Child, journal and files have the same sums, as who runs the house is told."""
    assert "green: " in house.manage("verify")
    for child in house.children:
        assert verify.command([child.database, "--parent", house.url, "--child", child.name]) == 0


def start_with(process: Process, **more: str) -> None:
    """Start it in this environment once; whoever starts it again starts it as usual."""
    usual = process.env
    process.env = {**usual, **more}
    process.start()
    process.env = usual


def dies_at(
    process: Process,
    point: Failpoint,
    *,
    visit: int = 1,
    meanwhile: Callable[[], None] = lambda: None,
    within_s: float = WITHIN_S,
) -> None:
    """Start a process that has this end before it, and again when it met it."""
    start_with(process, **{VARIABLE: f"{point}=kill@{visit}"})
    meanwhile()
    running = process.running
    assert running is not None
    until(running.poll, f"{process.name} dies at {point}", process, within_s=within_s)
    assert running.returncode == -signal.SIGKILL, process.said
    process.start()
