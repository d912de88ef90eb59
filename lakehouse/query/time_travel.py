"""The SQL of time travel: what a row was, what a table was, and what came between two commits. Pure.

A table of the lake is every change there ever was, so the past is a question about rows: nothing expires with
snapshots. There are two clocks. A time means that of the child (`_ts`): all a child had done up to the last change it
dates so, in its own order, whatever came late. A bookmark means what we knew: the commits of a parent up to a number.
Both may be asked at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from lakehouse.query.journal_tables import COMMITS, OWN
from lakehouse.query.quoting import identifier

NEWEST = "row_number() OVER (PARTITION BY _source, _row_id ORDER BY _epoch DESC, _seq DESC) = 1"
POSITION = "{'epoch': _epoch, 'seq': _seq}"
SHOWN = "* EXCLUDE (_before, _after)"


class Asked(NamedTuple):
    sql: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Empty: now. A snapshot and a bookmark are two ways to say what was known."""

    time: str = ""
    snapshot: int | None = None
    parent: str = ""
    bookmark: int | None = None


NOW = Moment()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Which rows of a table; empty: all."""

    namespace: str
    table: str
    child: str = ""
    row_id: str | None = None

    @property
    def name(self) -> str:
        return f"{identifier(self.namespace)}.{identifier(self.table)}"


def history(rows: Rows, moment: Moment = NOW) -> Asked:
    """Every change of these rows, child by child in the order they were made."""
    made, parameters = _made(rows, moment)
    return Asked(f"SELECT * FROM ({made}) ORDER BY _source, _epoch, _seq", parameters)  # noqa: S608 - quoted


def as_of(rows: Rows, moment: Moment = NOW) -> Asked:
    """The rows that were there, each as its last change left it."""
    made, parameters = _made(rows, moment)
    return Asked(
        f"SELECT {SHOWN} FROM ({made}) QUALIFY {NEWEST} AND _op <> 'DELETE' ORDER BY _source, _row_id",  # noqa: S608
        parameters,
    )


def changes(rows: Rows, *, parent: str, after: int, until: int) -> Asked:
    """What the commits of a parent behind one bookmark and up to another brought, in the order of the commits."""
    where, parameters = _where(rows)
    commits = f"{identifier(rows.namespace)}.{identifier(OWN + COMMITS)}"
    sql = (
        f"SELECT c.bookmark, r.* FROM (SELECT * FROM {rows.name}{where}) AS r JOIN {commits} AS c "  # noqa: S608 - quoted
        "ON r._flush = c.flush WHERE c.parent = $parent AND c.bookmark > $after AND c.bookmark <= $until "
        "ORDER BY c.bookmark, _source, _epoch, _seq"
    )
    return Asked(sql, parameters | {"parent": parent, "after": after, "until": until})


def _made(rows: Rows, moment: Moment) -> tuple[str, dict[str, Any]]:
    """The changes we knew of that their child had made by then."""
    told, parameters = _told(rows, moment)
    if not moment.time:
        return told, parameters
    # Where a child stood is told by all of its rows, not by those that are asked for.
    standing, _ = _told(Rows(namespace=rows.namespace, table=rows.table, child=rows.child), moment)
    stood = (
        f"SELECT _source, max({POSITION}) AS _last FROM ({standing}) "  # noqa: S608 - quoted
        "WHERE _ts <= CAST($time AS TIMESTAMPTZ) GROUP BY _source"
    )
    # Names that no column of a child can have.
    return (
        f"SELECT _told.* FROM ({told}) AS _told JOIN ({stood}) AS _stood USING (_source) "  # noqa: S608 - as above
        f"WHERE {POSITION} <= _last"
    ), parameters


def _told(rows: Rows, moment: Moment) -> tuple[str, dict[str, Any]]:
    """The changes we knew of then."""
    where, parameters = _where(rows)
    at = "" if moment.snapshot is None else f" AT (VERSION => {moment.snapshot:d})"
    if moment.time:
        parameters["time"] = moment.time
    if moment.bookmark is None:
        return f"SELECT * FROM {rows.name}{at}{where}", parameters  # noqa: S608 - quoted
    commits = f"{identifier(rows.namespace)}.{identifier(OWN + COMMITS)}"
    parameters |= {"parent": moment.parent, "bookmark": moment.bookmark}
    # A bookmark that the journal knows no commit of (0, or the last one it forgot) is just before the next.
    later = (
        f"SELECT flush FROM {commits} WHERE CASE WHEN parent = $parent THEN bookmark > $bookmark "  # noqa: S608 - quoted
        "ELSE committed_at > (SELECT coalesce(max(committed_at) FILTER (bookmark <= $bookmark), "
        f"min(committed_at) - INTERVAL 1 MILLISECOND) FROM {commits} WHERE parent = $parent) END"
    )
    unknown = f"(_flush IS NULL OR _flush NOT IN ({later}))"
    return f"SELECT * FROM {rows.name}{at}{where}{' AND ' if where else ' WHERE '}{unknown}", parameters  # noqa: S608


def _where(rows: Rows) -> tuple[str, dict[str, Any]]:
    conditions, parameters = [], {}
    if rows.child:
        conditions.append("_source = $child")
        parameters["child"] = rows.child
    if rows.row_id is not None:
        conditions.append("_row_id = $row_id")
        parameters["row_id"] = rows.row_id
    return (f" WHERE {' AND '.join(conditions)}" if conditions else ""), parameters
