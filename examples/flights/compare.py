"""Is the lake what the edges are? Every operation, every entry and every value, as DuckDB reads them.

Run alone it looks at what the last demo left: `python examples/flights/compare.py [folder]`. Ends with 1 when anything
is different, and says for which carrier.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from house import settle_in
from rich.console import Console
from rich.table import Table
from source import COLUMNS, WRITTEN, Counts, database

from lakehouse.query import duck

ROWS_SHOWN = 3

# Both sides in one form: numbers, text, NULL, and a moment as ISO text to the microsecond.
AT_THE_EDGE = ", ".join("replace(time_hour, 'Z', '.000000Z')" if name == "time_hour" else name for name in COLUMNS)
IN_THE_LAKE = ", ".join(
    "strftime(time_hour, '%Y-%m-%dT%H:%M:%S.%fZ')" if name == "time_hour" else name for name in COLUMNS
)
CURRENT = f"""
SELECT {IN_THE_LAKE} FROM (FROM entries WHERE _source = ? QUALIFY _seq = max(_seq) OVER (PARTITION BY _row_id))
WHERE _op <> 'DELETE' ORDER BY id
"""

Row = tuple[Any, ...]


@dataclass(slots=True)
class Carrier:
    """One edge database and its part of the lake."""

    name: str
    written: dict[str, int]
    found: dict[str, int]
    entries: int = 0
    rows: int = 0
    differences: list[str] = field(default_factory=list)


def compare(folder: Path) -> list[Carrier]:
    """What the writers of this folder did, and their databases, against the lake."""
    written: Counts = json.loads((folder / WRITTEN).read_text())
    with duck.connect() as lake:
        lake.execute(f"CREATE TABLE entries AS SELECT * EXCLUDE (_before, _after) FROM {duck.scan(location())}")
        return [_carrier(lake, folder, name, operations) for name, operations in written.items()]


def location() -> str:
    """Where the newest state of the table is written down, says the catalog."""
    import django

    django.setup()
    from lakehouse.models import IcebergTable

    return IcebergTable.objects.get(name="flights").metadata_location


def _carrier(lake: duckdb.DuckDBPyConnection, folder: Path, name: str, written: dict[str, int]) -> Carrier:
    found = dict(lake.execute("SELECT _op, count(*) FROM entries WHERE _source = ? GROUP BY _op", [name]).fetchall())
    carrier = Carrier(name, written, found, entries=sum(found.values()))
    _compare_operations(carrier)
    _compare_entries(carrier, lake)
    _compare_values(carrier, lake, database(folder, name))
    return carrier


def _compare_operations(carrier: Carrier) -> None:
    for operation, wanted in carrier.written.items():
        if (found := carrier.found.get(operation, 0)) != wanted:
            carrier.differences.append(f"{operation}: {wanted} written, {found} in the lake")


def _compare_entries(carrier: Carrier, lake: duckdb.DuckDBPyConnection) -> None:
    """The entries of a source are numbered from 1 on: none may be missing, none twice, no value set aside."""
    found = lake.execute(
        "SELECT count(*), count(DISTINCT _seq), min(_seq), max(_seq), count(_rest) FROM entries WHERE _source = ?"
        " GROUP BY _epoch",
        [carrier.name],
    ).fetchall()
    total = sum(carrier.written.values())
    if found != ([(total, total, 1, total, 0)] if total else []):
        carrier.differences.append(
            f"entries: wanted {total}, numbered 1 to {total}, in one epoch; found (count, distinct, first, last, "
            f"with values that fit no column) {found}"
        )


def _compare_values(carrier: Carrier, lake: duckdb.DuckDBPyConnection, path: Path) -> None:
    with closing(sqlite3.connect(path)) as edge:
        wanted = edge.execute(f"SELECT {AT_THE_EDGE} FROM flights ORDER BY id").fetchall()
    found = lake.execute(CURRENT, [carrier.name]).fetchall()
    carrier.rows = len(wanted)
    if _digest(wanted) != _digest(found):
        carrier.differences += _different_rows(wanted, found)


def _digest(rows: list[Row]) -> str:
    """Of all values and their types: 1 is neither 1.0 nor '1'."""
    return hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()


def _different_rows(wanted: list[Row], found: list[Row]) -> list[str]:
    """The first rows that differ. Compared as text, for 1 == 1.0."""
    edge, lake = ({row[0]: repr(row) for row in rows} for rows in (wanted, found))
    ids = sorted(key for key in edge | lake if edge.get(key) != lake.get(key))
    shown = [f"row {key}: edge {edge.get(key)}, lake {lake.get(key)}" for key in ids[:ROWS_SHOWN]]
    return [f"{len(ids)} rows differ", *shown]


def show(carriers: list[Carrier], console: Console) -> bool:
    """Print the table, then every difference; returns whether there is none."""
    table = Table("carrier", title="The lake as DuckDB reads it, against the edge databases", show_footer=True)
    numbers = {name: [one.found.get(name.upper(), 0) for one in carriers] for name in ("insert", "update", "delete")}
    numbers |= {"rows now": [one.rows for one in carriers], "entries": [one.entries for one in carriers]}
    for heading, column in numbers.items():
        table.add_column(heading, f"{sum(column):,}", justify="right")
    table.add_column("digest")
    for one, *row in zip(carriers, *numbers.values(), strict=True):
        table.add_row(one.name, *(f"{number:,}" for number in row), "different" if one.differences else "ok")
    console.print(table)
    for one in carriers:
        for difference in one.differences:
            console.print(f"{one.name}: {difference}", style="red", markup=False, highlight=False, soft_wrap=True)
    return not any(one.differences for one in carriers)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-lake").resolve()
    if not (folder / WRITTEN).exists():
        sys.exit(f"{folder} is not what a demo left; type: make demo")
    settle_in(folder)
    sys.exit(0 if show(compare(folder), Console()) else 1)
