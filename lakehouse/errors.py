"""Every error of the parent's half, as one tree.

The docstring of a class is its message when none is given; the class knows its code and whether trying again helps.
What a foreign system raises is turned into one of these at its door; the wire's errors live in rpc.errors.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "QUERY_ERRORS",
    "CommitConflict",
    "DamagedTable",
    "ForbiddenQuery",
    "InvalidQuery",
    "LakehouseError",
    "LeaseLost",
    "NotKept",
    "OutcomeUnknown",
    "QueryCancelled",
    "QueryError",
    "QueryTimeout",
    "QueryTooLarge",
    "QueryUnavailable",
    "SchemaMismatch",
    "StoreUnavailable",
    "TableRefused",
    "TooManyQueries",
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


class DamagedTable(LakehouseError):
    """A file or a property of a table cannot be understood."""

    code = "DAMAGED_TABLE"


class LeaseLost(LakehouseError):
    """Somebody else flushes this parent by now; nothing of this flush may become visible."""

    code = "LEASE_LOST"


class NotKept(LakehouseError):
    """Rows would come back changed from where they are to be rewritten."""

    code = "NOT_KEPT"


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


class TableRefused(LakehouseError):
    """A table takes no rows as it is; those for it wait, and others go on."""

    code = "TABLE_REFUSED"

    def __init__(self, message: str = "", *, table: str) -> None:
        super().__init__(message)
        self.table = table


class QueryError(LakehouseError):
    """A query was not answered."""

    code = "QUERY_FAILED"
    http_status: ClassVar[int] = 500


class InvalidQuery(QueryError):
    """This is no query that can be answered."""

    code = "INVALID_QUERY"
    http_status = 400


class ForbiddenQuery(QueryError):
    """A query may read the tables of its key and nothing else."""

    code = "FORBIDDEN"
    http_status = 403


class QueryTimeout(QueryError):
    """The query took too long and was ended."""

    code = "QUERY_TIMEOUT"
    http_status = 422


class QueryTooLarge(QueryError):
    """The query needs more than it may have."""

    code = "QUERY_TOO_LARGE"
    http_status = 422


class QueryCancelled(QueryError):
    """Somebody cancelled this query."""

    code = "QUERY_CANCELLED"
    http_status = 409


class TooManyQueries(QueryError):
    """There are too many queries already."""

    code = "TOO_MANY_QUERIES"
    http_status = 429
    retryable = True


class QueryUnavailable(QueryError):
    """Queries cannot be answered at the moment."""

    code = "QUERY_UNAVAILABLE"
    http_status = 503
    retryable = True


QUERY_ERRORS: dict[str, type[QueryError]] = {
    kind.code: kind
    for kind in (
        InvalidQuery,
        ForbiddenQuery,
        QueryTimeout,
        QueryTooLarge,
        QueryCancelled,
        TooManyQueries,
        QueryUnavailable,
    )
}
"""By what they are called between processes."""
