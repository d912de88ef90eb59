"""What the promise comes down to, for tests with real processes (lakehouse.torture), and a house that waits less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lakehouse.torture import edge_app
from lakehouse.torture import house as usual
from lakehouse.torture.compare import difference, document, state_of
from lakehouse.torture.house import ROOT, Child
from lakehouse.torture.process import WITHIN_S, Process, environment, is_alive, until

__all__ = [
    "ROOT",
    "WITHIN_S",
    "Child",
    "House",
    "Process",
    "assert_exactly_once",
    "document",
    "environment",
    "is_alive",
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
