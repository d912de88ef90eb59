"""Every error of the parent's half, as one tree.

The docstring of a class is its message when none is given; the class knows its code and whether trying again helps.
What a foreign system raises is turned into one of these at its door; the wire's errors live in rpc.errors.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CommitConflict",
    "LakehouseError",
    "LeaseLost",
    "OutcomeUnknown",
    "SchemaMismatch",
    "StoreUnavailable",
]


class LakehouseError(Exception):
    """The parent could not do what was asked."""

    code: ClassVar[str] = "LAKEHOUSE_ERROR"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class CommitConflict(LakehouseError):
    """Another writer moved the table first; nothing of this commit is visible, stage it anew."""

    code = "COMMIT_CONFLICT"
    retryable = True


class LeaseLost(LakehouseError):
    """Somebody else flushes this parent by now; nothing of this flush may become visible."""

    code = "LEASE_LOST"


class OutcomeUnknown(LakehouseError):
    """Nobody can tell whether rows are in their table; an operator has to say."""

    code = "OUTCOME_UNKNOWN"


class SchemaMismatch(LakehouseError):
    """The rows do not fit the columns of their table."""

    code = "SCHEMA_MISMATCH"


class StoreUnavailable(LakehouseError):
    """The object store or the warehouse folder cannot be read or written."""

    code = "STORE_UNAVAILABLE"
    retryable = True
