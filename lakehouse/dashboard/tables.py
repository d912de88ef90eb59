"""What there is to ask: the tables of a namespace, how SQL calls them, and the moments of its last commits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.current.names import current_of
from lakehouse.models import FlushTable, IcebergTable, Parent
from lakehouse.query import journal_tables
from lakehouse.query.quoting import identifier

TABLES_MAX = 500
COMMITS_SHOWN = 20
FLUSH_TABLES_LOOKED_AT = 500
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
RESERVED_WORDS = """
    all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create
    default deferrable desc describe distinct do else end except false fetch for foreign from group having in
    initially intersect into lambda lateral leading limit not null offset on only or order pivot placing primary
    qualify references returning select show some summarize symmetric table then to trailing true union unique
    unpivot using variadic when where window with
"""
RESERVED = frozenset(RESERVED_WORDS.split())
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Table:
    namespace: str
    name: str
    sql: str
    """As a query of this namespace calls it."""


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    tables: list[Table]


@dataclass(frozen=True, slots=True)
class Commit:
    moment: str
    text: str


def word(name: str) -> str:
    """A name as SQL takes it, in quotes only where it has to be."""
    return name if PLAIN.match(name) and name.lower() not in RESERVED else identifier(name)


def groups(namespace: str) -> list[Group]:
    """Tables of the namespace first; what has none is left out."""
    now = current_of(namespace)
    found = [
        Group("Changes", [Table(namespace, name, word(name)) for name in _names(namespace)]),
        Group("As they are now", [Table(now, name, f"{_dotted(now)}.{word(name)}") for name in _names(now)]),
    ]
    if Parent.objects.filter(namespace=namespace).exists():
        own = {one.name for one in found[0].tables}
        told = [Table(namespace, name, word(name)) for name in journal_tables.NAMES if name not in own]
        found.append(Group("Of the journal", told))
    return [one for one in found if one.tables]


def commits(namespace: str) -> list[Commit]:
    """The latest, each with a moment at which it was the latest."""
    found = FlushTable.objects.filter(namespace=namespace, flush__finished_ms__isnull=False).order_by("-pk")
    rows = found.values_list("flush__finished_ms", "flush__commit_number", "table", "rows")[:FLUSH_TABLES_LOOKED_AT]
    by_commit: dict[tuple[int, int | None], list[str]] = {}
    for finished_ms, number, table, count in rows:
        by_commit.setdefault((finished_ms or 0, number), []).append(f"{count} rows in {table}")
    newest = list(by_commit.items())[:COMMITS_SHOWN]
    return [Commit(moment(ms), f"commit {number}: {', '.join(said[:5])}") for (ms, number), said in newest]


def moment(moment_ms: int) -> str:
    """As AS OF takes it, in UTC."""
    return (EPOCH + timedelta(milliseconds=moment_ms)).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _names(namespace: str) -> list[str]:
    tables = IcebergTable.objects.filter(namespace__name=namespace.replace(".", SEPARATOR)).order_by("name")
    return list(tables.values_list("name", flat=True)[:TABLES_MAX])


def _dotted(namespace: str) -> str:
    return ".".join(word(level) for level in namespace.split("."))
