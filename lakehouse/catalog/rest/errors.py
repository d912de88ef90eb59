"""One table: which exception is which answer of the specification."""

from __future__ import annotations

import logging

from django.db import DataError
from django.db import Error as DatabaseError
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchIdentifierError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationError,
)

from lakehouse.catalog.rest.problems import Problem, unavailable

log = logging.getLogger(__name__)

MESSAGE_CHARS_MAX = 500
TABLE: tuple[tuple[type[Exception], int, str], ...] = (
    (NoSuchNamespaceError, 404, "NoSuchNamespaceException"),
    (NoSuchTableError, 404, "NoSuchTableException"),
    (NoSuchIdentifierError, 404, "NoSuchTableException"),
    (NamespaceAlreadyExistsError, 409, "AlreadyExistsException"),
    (TableAlreadyExistsError, 409, "AlreadyExistsException"),
    (NamespaceNotEmptyError, 409, "NamespaceNotEmptyException"),
    (CommitFailedException, 409, "CommitFailedException"),
    (CommitStateUnknownException, 500, "CommitStateUnknownException"),
    (NotImplementedError, 406, "UnsupportedOperationException"),
    (ValidationError, 400, "ValidationException"),
    (DataError, 400, "BadRequestException"),
    (ValueError, 400, "BadRequestException"),
)
"""The first row that fits. What is in none of them and below is a mistake of ours, and the log has it whole.

Of data that they do not take only databases know, as PostgreSQL takes no NUL; coming back would not help.
"""


def problem_of(exc: Exception) -> Problem:
    if isinstance(exc, Problem):
        return exc
    for kind, status, name in TABLE:
        if isinstance(exc, kind):
            return Problem(status, name, str(exc)[:MESSAGE_CHARS_MAX])
    if isinstance(exc, DatabaseError):
        log.error("the catalog could not ask the database, its client is asked to come back: %s", exc)
        return unavailable("the database is busy or away, come back")
    if isinstance(exc, OSError) and not isinstance(exc, FileNotFoundError):
        log.error("the catalog could not reach the warehouse, its client is asked to come back: %s", exc)
        return unavailable("the warehouse cannot be read or written, come back")
    log.error("a request to the catalog failed", exc_info=exc)
    return Problem(500, "InternalServerError", "an error of the server; its log says which")
