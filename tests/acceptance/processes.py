"""What the promise comes down to, for tests with real processes (lakehouse.torture)."""

from __future__ import annotations

from lakehouse.torture import edge_app
from lakehouse.torture.compare import difference, document, state_of
from lakehouse.torture.house import ROOT, Child, House
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


def assert_exactly_once(house: House, child: Child) -> int:
    """Source and lake, change by change and row by row; returns how many changes there were."""
    wanted, found = edge_app.ledger(child.database), house.changes(child.name)
    assert difference(wanted, found) is None, f"{child.name}: {difference(wanted, found)}"
    assert state_of(found) == edge_app.state(child.database)
    return len(found)
