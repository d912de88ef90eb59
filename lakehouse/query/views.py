"""The tables of a query as views of DuckDB, each over the files of one snapshot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from lakehouse.errors import InvalidQuery
from lakehouse.query import snapshots, unreadable
from lakehouse.query.messages import Place, Rows
from lakehouse.query.quoting import identifier, quoted
from lakehouse.query.statement import Reference

MOMENT = "TIMESTAMPTZ"
TAKEN = {"memory", "temp", "system", "pg_catalog", "information_schema"}
"""Namespaces whose names mean something else to DuckDB."""
DIGITS_MAX = 20
"""Of a snapshot's id, and more."""


@dataclass(slots=True)
class Opened:
    folders: list[str] = field(default_factory=list)
    """What may be read from now on."""
    is_renamed: bool = False
    """The tree names other tables than the text of the query."""


def open_tables(
    connection: duckdb.DuckDBPyConnection,
    named: Sequence[Reference],
    places: Sequence[Place],
    *,
    namespace: str,
    as_of: str,
) -> Opened:
    """`places` has one for each name of the query, as the query calls it. Raises InvalidQuery and duckdb.Error."""
    opened, views = Opened(), _Views(connection)
    metadata: dict[str, dict[str, Any]] = {}
    found = {(one.namespace, one.table): one for one in places}
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(_schema(namespace))}")
    connection.execute(f"USE memory.{identifier(_schema(namespace))}")
    for one in named:
        wanted = (one.namespace or namespace, one.table)
        location, rows = found[wanted].metadata_location, found[wanted].rows
        if rows is not None:
            view = views.fill(wanted, _current(one, rows, as_of))
        else:
            if location not in metadata:
                metadata[location] = unreadable.metadata_of(connection, location)
                opened.folders += snapshots.folders(metadata[location], location)
            snapshot_id = _snapshot(connection, one, metadata[location], as_of)
            if why := unreadable.complaint(connection, metadata[location], snapshot_id):
                raise InvalidQuery(f"{one.table} cannot be read: {why}")
            view = views.open(wanted, location, snapshot_id)
        if view != wanted or one.at or one.node["catalog_name"]:
            one.rename(*view)
            opened.is_renamed = True
    return opened


class _Views:
    """A name is one snapshot; whoever comes later under the same name, seen by DuckDB, has a number behind it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._taken: dict[tuple[str, str], tuple[str, int | None]] = {}

    def open(self, wanted: tuple[str, str], location: str, snapshot_id: int | None) -> tuple[str, str]:
        content = (location, snapshot_id)
        view, number = (_schema(wanted[0]), wanted[1]), 1
        while (there := self._taken.get(_folded(view), content)) != content:
            number += 1
            view = (view[0], f"{wanted[1]}@{number}")
        if _folded(view) not in self._taken:
            self._taken[_folded(view)] = content
            snapshot = "" if snapshot_id is None else f", snapshot_from_id => {snapshot_id}::UBIGINT"
            namespace, table = map(identifier, view)
            self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {namespace}")
            self._connection.execute(
                f"CREATE VIEW {namespace}.{table} AS FROM iceberg_scan({quoted(location)}{snapshot})"
            )
        assert there == content
        return view

    def fill(self, wanted: tuple[str, str], rows: Rows) -> tuple[str, str]:
        view = _schema(wanted[0]), wanted[1]
        if _folded(view) not in self._taken:
            self._taken[_folded(view)] = ("", None)
            shape = json.dumps([{name: "BIGINT" if kind == MOMENT else kind for name, kind in rows.columns.items()}])
            columns = [
                f"make_timestamptz({name} * 1000) AS {name}" if kind == MOMENT else name
                for name, kind in ((identifier(name), kind) for name, kind in rows.columns.items())
            ]
            namespace, table = map(identifier, view)
            self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {namespace}")
            self._connection.execute(
                f"CREATE TABLE {namespace}.{table} AS SELECT {', '.join(columns)} "  # noqa: S608 - names of ours
                f"FROM (SELECT unnest(from_json($1::VARCHAR, {quoted(shape)}), max_depth := 2))",
                [rows.json],
            )
        return view


def _current(one: Reference, rows: Rows, as_of: str) -> Rows:
    """Raises InvalidQuery when they are asked for another time; as of then nobody knows."""
    if one.at is not None or as_of:
        raise InvalidQuery(f"{one.table} tells of now only; take the time away, or ask for it in a query of its own")
    return rows


def _snapshot(
    connection: duckdb.DuckDBPyConnection, one: Reference, metadata: dict[str, Any], as_of: str
) -> int | None:
    """Which snapshot is meant; None: the newest."""
    if one.at is None and not as_of:
        return None
    if one.at is None:
        return _by_text(connection, as_of, metadata, one.table)
    expression = json.dumps(_selected(one.at["expr"]))
    ((sql,),) = connection.execute("SELECT json_deserialize_sql(?::JSON)", [expression]).fetchall()
    kind = "VARCHAR" if one.at["unit"].upper() == "VERSION" else "TIMESTAMPTZ"
    ((value,),) = connection.execute(f"SELECT CAST(CAST(({sql}) AS {kind}) AS VARCHAR)").fetchall()
    if kind == "TIMESTAMPTZ":
        return snapshots.as_of(metadata, _moment_ms(connection, str(value)), table=one.table, moment=str(value))
    if not _is_number(str(value)):
        told = str(value)[:100]
        raise InvalidQuery(f"the version of {one.table} is {told!r}, wanted the id of a snapshot, which is a number")
    return snapshots.by_id(metadata, int(value), table=one.table)


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= DIGITS_MAX


def _by_text(connection: duckdb.DuckDBPyConnection, text: str, metadata: dict[str, Any], table: str) -> int:
    if _is_number(text):
        return snapshots.by_id(metadata, int(text), table=table)
    return snapshots.as_of(metadata, _moment_ms(connection, text), table=table, moment=text)


def _moment_ms(connection: duckdb.DuckDBPyConnection, text: str) -> int:
    try:
        ((found,),) = connection.execute("SELECT epoch_ms(CAST(? AS TIMESTAMPTZ))", [text]).fetchall()
    except duckdb.Error:
        found = None
    if found is None:  # infinity has no number
        raise InvalidQuery(
            f"as of {text[:100]!r} is no time, wanted one such as 2026-01-31 12:00:00+00, or the id of a snapshot"
        )
    return int(found)


def _selected(expression: dict[str, Any]) -> dict[str, Any]:
    """A statement that computes this and nothing else."""
    empty = {"type": "EMPTY", "alias": "", "sample": None, "query_location": 0}
    node: dict[str, Any] = {
        "type": "SELECT_NODE",
        "modifiers": [],
        "cte_map": {"map": []},
        "select_list": [expression],
        "from_table": empty,
        "where_clause": None,
        "group_expressions": [],
        "group_sets": [],
        "aggregate_handling": "STANDARD_HANDLING",
        "having": None,
        "sample": None,
        "qualify": None,
    }
    return {"error": False, "statements": [{"node": node, "named_param_map": []}]}


def _schema(namespace: str) -> str:
    return f"{namespace}@" if namespace.lower() in TAKEN else namespace


def _folded(view: tuple[str, str]) -> tuple[str, str]:
    return view[0].lower(), view[1].lower()
