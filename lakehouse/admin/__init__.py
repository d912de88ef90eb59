"""The admin: every row there is, readable; what may be edited is what an operator decides, never what happened."""

from lakehouse.admin import access, catalog, child_tables, current, flushes, journal, parents, queries, schemas, waiting

__all__ = [
    "access",
    "catalog",
    "child_tables",
    "current",
    "flushes",
    "journal",
    "parents",
    "queries",
    "schemas",
    "waiting",
]
