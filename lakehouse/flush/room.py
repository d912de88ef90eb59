"""How many tables there may be: a flush makes as many new ones as there is room for, the rest are dead letters.

A name of a table is a word of a child; without a bound one loop in its code makes tables without end. Parents that
flush into one namespace in the same moment may exceed it, by what they flush then.
"""

from __future__ import annotations

from collections.abc import Collection

from lakehouse.catalog.lake import Lake
from lakehouse.flush.raw import Raw


def within(lake: Lake, read: Raw, known: Collection[str], *, namespace: str, tables_max: int) -> Raw:
    """The rows of known tables and of the first new ones; `known` are those that exist of all that are named."""
    new = [one for one in read.tables if one.table not in known]
    if not new or len(new) <= (left := max(0, tables_max - lake.tables_in(namespace))):
        return read
    reason = (
        f"a new table, and {namespace} has its {tables_max} tables (tables_max); raise it in the settings of the "
        "parent, or delete tables"
    )
    return read.refusing({one.table for one in new[left:]}, reason)
