"""Who may exchange files of a table, in whichever catalog it is: what merging and filling ask of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pyiceberg.table import Table

from lakehouse.catalog.staging import Change


@dataclass(frozen=True, slots=True)
class Begun:
    """A table as it is now, and how a change made of it comes to count: once, if nobody was faster."""

    table: Table
    commit: Callable[[Change], None]
    """Raises CommitConflict when somebody was, and StoreUnavailable or LeaseLost."""


class Tender(Protocol):
    @property
    def name(self) -> str:
        """Of the table, with its namespace."""
        ...

    @property
    def is_told(self) -> bool:
        """Whether a commit that is said to have lost has lost, so that its files can go."""
        ...

    def renew(self) -> None:
        """Raises LeaseLost when this is somebody else's to do by now."""
        ...

    def load(self) -> Table: ...

    def begin(self) -> Begun: ...

    def refusal(self, table: Table) -> str:
        """Why its files must not be exchanged, or nothing."""
        ...
