"""What a flush asks of the lake, whoever keeps its catalog. Two keep it: `own` and `foreign`.

`land` comes first and outside of any transaction: it brings rows as near to their tables as that catalog lets us.
`seal` belongs into the transaction that marks the batches, after everything that may refuse: with our own catalog it
makes the rows visible, with a foreign one it ends the doubt about rows that are visible already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from lakehouse.catalog.tables import Staged
from lakehouse.errors import TableRefused

Locations = dict[str, dict[str, str]]
"""The newest metadata file of each table, by namespace and name."""


@dataclass(frozen=True, slots=True)
class Move:
    """Rows on their way, by what the journal knows them as: a flush with its lease, or a recovery with its pieces."""

    flush_id: int
    parent_id: int
    namespace: str
    epoch: int
    is_resumed: bool = False
    """Somebody before us may have landed some of it."""
    pieces: tuple[int, ...] | None = None
    """The kept rows of a recovery; None for a flush."""

    @property
    def is_recovery(self) -> bool:
        return self.pieces is not None


class Lake(Protocol):
    def known_schemas(self, namespace: str, names: Iterable[str]) -> tuple[dict[str, pa.Schema], list[TableRefused]]:
        """The Arrow schema of each of these tables that exists, and which of them take no rows.

        Raises StoreUnavailable.
        """
        ...

    def tables_in(self, namespace: str) -> int:
        """How many tables a namespace has."""
        ...

    def land(self, move: Move, tables: Mapping[str, pa.Table], parquet: Mapping[str, str]) -> list[Staged]:
        """Raises CommitConflict, LeaseLost, OutcomeUnknown, StoreUnavailable, TableRefused."""
        ...

    def seal(self, move: Move, staged: Sequence[Staged]) -> None:
        """In the caller's transaction. Raises CommitConflict."""
        ...

    def tidy(self, staged: Sequence[Staged]) -> None:
        """After that transaction has committed."""
        ...

    def locations(self, namespaces: Iterable[str]) -> Locations: ...
