"""What makes a row of a table collide with another: its unique constraints, as SQL terms.

SQLite tells the columns of an index, but of an expression or a partial index only the text of CREATE INDEX. That text
is cut at its outer commas here; it is not understood.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] | --[^\n]* | /\*.*?(?:\*/|$) | \w+ | \s+ | .""",
    re.VERBOSE | re.DOTALL,
)


class Term(NamedTuple):
    """One value of a unique constraint: a column, or an expression over the columns of the table."""

    column: str | None
    expression: str
    collation: str


class Unique(NamedTuple):
    """Two rows collide when all terms are equal and `where`, if any, holds for both."""

    terms: tuple[Term, ...]
    where: str | None = None

    @property
    def is_plain(self) -> bool:
        return self.where is None and all(term.column is not None for term in self.terms)


def read(connection: sqlite3.Connection, table: str) -> tuple[tuple[Unique, ...], bool]:
    """The unique constraints of a table, and whether its primary key is one of them."""
    found: list[Unique] = []
    has_key = False
    rows = connection.execute('SELECT name, origin, partial FROM pragma_index_list(?) WHERE "unique"', (table,))
    for name, origin, partial in rows.fetchall():
        has_key = has_key or origin == b"pk"
        found.append(_unique(connection, name.decode(), partial=bool(partial)))
    return tuple(found), has_key


def _unique(connection: sqlite3.Connection, index: str, *, partial: bool) -> Unique:
    rows = connection.execute('SELECT name, coll, cid FROM pragma_index_xinfo(?) WHERE "key"', (index,)).fetchall()
    expressions, where = [""] * len(rows), None
    if partial or any(cid == -2 for _, _, cid in rows):
        sql = connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?", (index,)).fetchone()
        expressions, where = parse(sql[0].decode())
    terms = (
        Term(name.decode() if name is not None else None, expression, collation.decode())
        for (name, collation, _), expression in zip(rows, expressions, strict=True)
    )
    return Unique(tuple(terms), where)


def parse(create_index: str) -> tuple[list[str], str | None]:
    """The indexed expressions of a CREATE INDEX, without their direction, and its WHERE."""
    tokens = _tokens(create_index)
    for piece in tokens:
        if piece == "(":
            break
    terms, depth = [""], 1
    for piece in tokens:
        depth += {"(": 1, ")": -1}.get(piece, 0)
        if not depth:
            break
        if piece == "," and depth == 1:
            terms.append("")
        else:
            terms[-1] += piece
    rest = "".join(tokens).strip()
    return [_without_direction(term) for term in terms], rest[len("WHERE") :].strip() if rest else None


def _tokens(sql: str) -> Iterator[str]:
    for match in _TOKEN.finditer(sql):
        token = match.group()
        yield " " if token.startswith(("--", "/*")) else token


def _without_direction(term: str) -> str:
    return re.sub(r"\s+(?:ASC|DESC)\s*$", "", term, flags=re.IGNORECASE).strip()
