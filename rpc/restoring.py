"""An edge database made anew from the lake, by whoever can ask it: over HTTP, or in the parent's own house.

    watermarks ─ where did the child stand then? ─ the last change of each row up to there, a page at a time ─ tables

Everything comes by SELECTs that any key for queries may make. A time is of the child's clock, and what is restored is
all the child had done up to the last change it dates so: a state it really had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rpc.documents import Document
from rpc.rebuilding import Connection, folded, quoted, rebuild

KINDS = {"BIGINT": "INTEGER", "BOOLEAN": "INTEGER", "DOUBLE": "REAL", "VARCHAR": "TEXT"}
BLOBS = "_blobs"
WATERMARKS = "$watermarks"
"""Of the journal, whatever tables the child has."""
ROW_ID = "coalesce(_row_id, '')"
PIECE_CHARS, PIECE_CHARS_MIN = 1 << 20, 16
"""Of a row that is larger than an answer may be."""
PAGE = "AS page(id, text, blobs, rest)"
RESERVED = "sqlite_"
NEWEST = "row_number() OVER (PARTITION BY _row_id ORDER BY _epoch DESC, _seq DESC) = 1"


class Page(NamedTuple):
    rows: list[list[Any]]
    is_cut: bool


Ask = Callable[[str, Mapping[str, Any]], Page]
"""The rows of a SELECT with these values for `$name`, as JSON has them."""


class Position(NamedTuple):
    """An entry in the order of its child."""

    epoch: int
    sequence: int


NOTHING = Position(-1, -1)


class NothingThere(Exception):
    """The lake has nothing to restore; the message says what it has."""


@dataclass(slots=True)
class Restored:
    tables: dict[str, int] = field(default_factory=dict)
    """Rows by name."""
    until: Position = NOTHING
    """The last change that is in it."""
    warnings: list[str] = field(default_factory=list)


def restore(ask: Ask, connection: Connection, child: str, *, namespace: str = "lake", as_of: str = "") -> Restored:
    """Raises NothingThere and what `ask` raises."""
    lake = _Lake(ask, child, namespace)
    marks = lake.marks()
    # A child that writes by two parents has a mark of each.
    tables = list(dict.fromkeys(name for name, *_ in marks if name is not None))
    if not tables:
        raise NothingThere(f"the lake has no rows of a child {child!r} in the namespace {namespace}")
    # Also without a time: it goes on writing while page after page is asked for.
    until = max(filter(None, (lake.position(table, as_of) for table in tables)), default=NOTHING)
    made = Restored(until=until)
    if as_of and not any(lake.has_later(table, as_of) for table in tables):
        made.warnings.append(f"the lake knows of no change after {as_of}; the child may have made some before it")
    _warn_of_holes(made, marks, is_past=bool(as_of))
    for table, name in _names(tables).items():
        columns = lake.columns(table)
        shown = {name: KINDS.get(kind, "") for name, kind in columns.items() if not name.startswith("_")}
        rebuilt = rebuild(connection, name, lake.documents(table, columns, until), shown)
        made.tables[name] = rebuilt.rows
        made.warnings += filter(None, [_renamed(table, name), rebuilt.told(name)])
    made.warnings += lake.left_out
    return made


def _names(tables: list[str]) -> dict[str, str]:
    """What each is called in SQLite, which knows no case in names and keeps some for itself."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    theirs = {folded(table) for table in tables}
    for table in tables:
        name = f"_{table}" if folded(table).startswith(RESERVED) else table
        while folded(name) in taken or (name != table and folded(name) in theirs):
            name += "_"
        taken.add(folded(name))
        names[table] = name
    return names


def _renamed(table: str, name: str) -> str:
    if name == table:
        return ""
    why = "is a name SQLite keeps for itself" if folded(table).startswith(RESERVED) else "is one name with another"
    return f"{table} is called {name} here, for {table!r} {why}"


def _warn_of_holes(made: Restored, marks: list[list[Any]], *, is_past: bool) -> None:
    for table, epoch, sequence, is_complete in marks:
        mark = Position(int(epoch), int(sequence))
        if not is_complete and (not is_past or made.until > mark):
            made.warnings.append(
                f"{table} is complete up to epoch {mark.epoch}, sequence {mark.sequence} only; later changes wait in "
                "the journal or the fallback, or are dead letters"
            )


@dataclass(slots=True)
class _Lake:
    """What is asked about one child."""

    ask: Ask
    child: str
    namespace: str
    left_out: list[str] = field(default_factory=list)
    """Rows that nothing brings."""

    def marks(self) -> list[list[Any]]:
        return self._all(
            f"SELECT table_name, epoch, seq, is_complete FROM {quoted(self.namespace)}.{quoted(WATERMARKS)} "  # noqa: S608 - quoted
            "WHERE child = $child ORDER BY ALL",
        )

    def position(self, table: str, as_of: str) -> Position | None:
        """The last change in this table, or the last that the child dates up to then."""
        found = self._rows(
            f"SELECT _epoch, _seq FROM {self._name(table)} WHERE _source = $child "  # noqa: S608 - quoted
            f"{'AND _ts <= CAST($time AS TIMESTAMPTZ) ' if as_of else ''}ORDER BY _epoch DESC, _seq DESC LIMIT 1",
            **({"time": as_of} if as_of else {}),
        )
        return Position(*map(int, found[0])) if found else None

    def has_later(self, table: str, as_of: str) -> bool:
        return bool(
            self._rows(
                f"SELECT 1 FROM {self._name(table)} WHERE _source = $child "  # noqa: S608 - quoted
                "AND _ts > CAST($time AS TIMESTAMPTZ) LIMIT 1",
                time=as_of,
            )
        )

    def columns(self, table: str) -> dict[str, str]:
        return dict(self._all(f"SELECT column_name, column_type FROM (DESCRIBE {self._name(table)})"))  # noqa: S608

    def documents(self, table: str, columns: Mapping[str, str], until: Position) -> Iterator[Document]:
        """The rows there were, by row id."""
        sql, behind = self._page(table, columns), None
        while True:
            values = {"child": self.child, "behind": behind, **until._asdict()}
            page = self.ask(sql, values)
            yield from (Document(*row) for row in page.rows)
            if not page.is_cut:
                return
            behind = page.rows[-1][0] if page.rows else self._row_id(sql, values)
            if not page.rows and (one := self._large(table, sql, values, behind)):
                yield one

    def _row_id(self, sql: str, values: Mapping[str, Any]) -> str:
        """Of the first row of a page."""
        rows = self.ask(f"SELECT id FROM ({sql}) {PAGE} ORDER BY 1 LIMIT 1", values).rows  # noqa: S608 - ours
        if not rows:
            raise NothingThere("an answer of the parent has no room for a row id; EVODB_QUERY_BYTES_MAX bounds it")
        return str(rows[0][0])

    def _large(self, table: str, sql: str, values: Mapping[str, Any], row_id: str) -> Document | None:
        """A row that no answer holds, piece by piece."""
        parts = [self._in_pieces(sql, values, row_id, name) for name in ("text", "blobs", "rest")]
        if parts[0] is None:
            self.left_out.append(f"{table}: the row {row_id[:100]!r} is not restored, no answer of the parent holds it")
            return None
        return Document(row_id, parts[0], *(part or None for part in parts[1:]))

    def _in_pieces(self, sql: str, values: Mapping[str, Any], row_id: str, column: str) -> str | None:
        found, size = "", PIECE_CHARS
        piece = f"SELECT substr(coalesce({column}, ''), $at, $size) FROM ({sql}) {PAGE} WHERE id = $row"  # noqa: S608
        while size >= PIECE_CHARS_MIN:
            rows = self.ask(piece, {**values, "row": row_id, "at": len(found) + 1, "size": size}).rows
            if not rows:
                size //= 2
                continue
            more = str(rows[0][0])
            found += more
            if len(more) < size:
                return found
        return None

    def _page(self, table: str, columns: Mapping[str, str]) -> str:
        typed = [name for name in columns if not name.startswith("_")]
        fields = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in typed)
        made = f"CAST(to_json(struct_pack({fields})) AS VARCHAR)" if typed else "'{}'"
        return (
            f"SELECT {ROW_ID}, coalesce(_after, {made}), {BLOBS if BLOBS in columns else 'NULL'}, "  # noqa: S608 - quoted
            # What came as typed columns and fits none of the table's is there; of JSON all is in `_after`.
            "CASE WHEN _after IS NULL THEN _rest END "
            f"FROM {self._name(table)} WHERE _source = $child AND (CAST($behind AS VARCHAR) IS NULL OR "
            f"{ROW_ID} > CAST($behind AS VARCHAR)) AND (_epoch < $epoch OR (_epoch = $epoch AND _seq <= $sequence)) "
            f"QUALIFY {NEWEST} AND _op <> 'DELETE' ORDER BY 1"
        )

    def _rows(self, sql: str, **values: Any) -> list[list[Any]]:
        return self.ask(sql, {"child": self.child, **values}).rows

    def _all(self, sql: str) -> list[list[Any]]:
        found: list[list[Any]] = []
        while True:
            page = self.ask(f"{sql} OFFSET {len(found)}", {"child": self.child} if "$child" in sql else {})
            found += page.rows
            if not page.is_cut or not page.rows:
                return found

    def _name(self, table: str) -> str:
        return f"{quoted(self.namespace)}.{quoted(table)}"
