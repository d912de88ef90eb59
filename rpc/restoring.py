"""An edge database made anew from the lake, by whoever can ask it: over HTTP, or in the parent's own house.

    watermarks ─ where did the child stand then? ─ the last change of each row up to there, a page at a time ─ tables

Everything comes by SELECTs that any key for queries may make. A time is of the child's clock, and what is restored is
all the child had done up to the last change it dates so: a state it really had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rpc.rebuilding import Connection, Document, NotATable, quoted, rebuild

KINDS = {"BIGINT": "INTEGER", "BOOLEAN": "INTEGER", "DOUBLE": "REAL", "VARCHAR": "TEXT"}
BLOBS = "_blobs"
WATERMARKS = "$watermarks"
"""Of the journal, whatever tables the child has."""
ROW_ID = "coalesce(_row_id, '')"
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


class NothingThere(Exception):
    """The lake has nothing to restore; the message says what it has."""


@dataclass(slots=True)
class Restored:
    tables: dict[str, int] = field(default_factory=dict)
    """Rows by name."""
    until: Position | None = None
    """The last change that is in it; None: all there are."""
    warnings: list[str] = field(default_factory=list)


def restore(ask: Ask, connection: Connection, child: str, *, namespace: str = "lake", as_of: str = "") -> Restored:
    """Raises NothingThere, NotATable and what `ask` raises."""
    marks = ask(
        f"SELECT table_name, epoch, seq, is_complete FROM {quoted(namespace)}.{quoted(WATERMARKS)} "  # noqa: S608 - quoted
        "WHERE child = $child ORDER BY table_name",
        {"child": child},
    ).rows
    # A child that writes by two parents has a mark of each.
    tables = list(dict.fromkeys(name for name, *_ in marks if name is not None))
    if not tables:
        raise NothingThere(f"the lake has no rows of a child {child!r} in the namespace {namespace}")
    _refuse_clash(tables)
    made = Restored()
    lake = _Lake(ask, child, namespace)
    if as_of:
        made.until = max(filter(None, (lake.position(table, as_of) for table in tables)), default=Position(-1, -1))
        if not any(lake.has_later(table, as_of) for table in tables):
            made.warnings.append(f"the lake knows of no change after {as_of}; the child may have made some before it")
    _warn_of_holes(made, marks)
    for table in tables:
        columns = lake.columns(table)
        shown = {name: KINDS.get(kind, "") for name, kind in columns.items() if not name.startswith("_")}
        made.tables[table] = rebuild(connection, table, lake.documents(table, columns, made.until), shown)
    return made


def _refuse_clash(tables: list[str]) -> None:
    known: dict[str, str] = {}
    for table in tables:
        if (other := known.setdefault(table.lower(), table)) != table:
            raise NotATable(f"the child has the tables {other!r} and {table!r}, which are one to SQLite")


def _warn_of_holes(made: Restored, marks: list[list[Any]]) -> None:
    for table, epoch, sequence, is_complete in marks:
        mark = Position(int(epoch), int(sequence))
        if not is_complete and (made.until is None or made.until > mark):
            made.warnings.append(
                f"{table} is complete up to epoch {mark.epoch}, sequence {mark.sequence} only; later changes wait in "
                "the journal or the fallback, or are dead letters"
            )


class _Lake(NamedTuple):
    """What is asked about one child."""

    ask: Ask
    child: str
    namespace: str

    def position(self, table: str, as_of: str) -> Position | None:
        """The last change in this table that the child dates up to then."""
        found = self._rows(
            f"SELECT _epoch, _seq FROM {self._name(table)} WHERE _source = $child "  # noqa: S608 - quoted
            "AND _ts <= CAST($time AS TIMESTAMPTZ) ORDER BY _epoch DESC, _seq DESC LIMIT 1",
            time=as_of,
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
        found = self.ask(f"SELECT column_name, column_type FROM (DESCRIBE {self._name(table)})", {})  # noqa: S608
        return dict(found.rows)

    def documents(self, table: str, columns: Mapping[str, str], until: Position | None) -> Iterator[Document]:
        """The rows there were, by row id."""
        sql, behind = self._page(table, columns, until), None
        while True:
            values = {"child": self.child, "behind": behind}
            page = self.ask(sql, values | (until._asdict() if until else {}))
            yield from (Document(*row) for row in page.rows)
            if not page.is_cut:
                return
            if not page.rows:
                raise NothingThere(f"a row of {table} behind {behind!r} is larger than an answer may be")
            behind = page.rows[-1][0]

    def _page(self, table: str, columns: Mapping[str, str], until: Position | None) -> str:
        typed = [name for name in columns if not name.startswith("_")]
        fields = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in typed)
        made = f"CAST(to_json(struct_pack({fields})) AS VARCHAR)" if typed else "'{}'"
        position = "AND (_epoch < $epoch OR (_epoch = $epoch AND _seq <= $sequence)) " if until else ""
        return (
            f"SELECT {ROW_ID}, coalesce(_after, {made}), {BLOBS if BLOBS in columns else 'NULL'}, "  # noqa: S608 - quoted
            # What came as typed columns and fits none of the table's is there; of JSON all is in `_after`.
            "CASE WHEN _after IS NULL THEN _rest END "
            f"FROM {self._name(table)} WHERE _source = $child AND (CAST($behind AS VARCHAR) IS NULL OR "
            f"{ROW_ID} > CAST($behind AS VARCHAR)) {position}QUALIFY {NEWEST} AND _op <> 'DELETE' ORDER BY 1"
        )

    def _rows(self, sql: str, **values: Any) -> list[list[Any]]:
        return self.ask(sql, {"child": self.child, **values}).rows

    def _name(self, table: str) -> str:
        return f"{quoted(self.namespace)}.{quoted(table)}"
