"""What a chart shows, as data for the script that draws it. Pure.

Counts by minute become stacked bars. The rows of a query become lines or bars when they have something to draw: the
first column of times or numbers lies below, columns of numbers are drawn, and one column of text beside a time makes a
line for each of its values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

MINUTE_MS = 60_000
SERIES_MAX = 8
LABELS_MAX = 200
POINTS_MAX = 10_000
OTHERS = "others"
TIMES = ("TIMESTAMP", "DATE")
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
NUMBERS = (*INTEGERS, *(f"U{one}" for one in INTEGERS), "FLOAT", "DOUBLE", "DECIMAL")
BELOW_BY_NAME = ("minute", "hour", "day", "week", "month", "year")
"""Columns of numbers that are rather what the others are drawn over."""

Value = float | None


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    values: list[Value]


@dataclass(frozen=True, slots=True)
class Drawing:
    kind: str
    """`time` (x in seconds), `number`, or `label` (x is the place of a label)."""
    x: list[float]
    series: list[Series]
    labels: list[str] = field(default_factory=list)
    is_stacked: bool = False
    """Bars, one on the other."""

    @property
    def json(self) -> str:
        """For an attribute of a page, where templates escape it."""
        series = [{"name": one.name, "values": one.values} for one in self.series]
        document = {"kind": self.kind, "x": self.x, "labels": self.labels, "stacked": self.is_stacked, "series": series}
        return orjson.dumps(document).decode()


def totals(counts: Mapping[tuple[int, str], int]) -> list[tuple[str, int]]:
    """By type, the most first."""
    found: Counter[str] = Counter()
    for (_, kind), count in counts.items():
        found[kind] += count
    return sorted(found.items(), key=lambda one: (-one[1], one[0]))


def by_minute(counts: Mapping[tuple[int, str], int], *, since_ms: int, until_ms: int) -> Drawing:
    """One bar for each minute, whether something was in it or not; rare types together."""
    minutes = range(since_ms // MINUTE_MS * MINUTE_MS, until_ms + 1, MINUTE_MS)
    kinds = [kind for kind, _ in totals(counts)]
    own = kinds if len(kinds) <= SERIES_MAX else kinds[: SERIES_MAX - 1]
    rows = [Series(kind, [float(counts.get((minute, kind), 0)) for minute in minutes]) for kind in own]
    if rare := kinds[len(own) :]:
        rows.append(Series(OTHERS, [float(sum(counts.get((at, one), 0) for one in rare)) for at in minutes]))
    return Drawing("time", [minute / 1000 for minute in minutes], rows, is_stacked=True)


def of_answer(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> Drawing | str:
    """The columns (name, DuckDB's type) and rows of an answer as a chart, or why there is none."""
    kinds = [kind_of(kind) for _, kind in columns]
    numbers = [at for at, kind in enumerate(kinds) if kind == "number"]
    if not rows or not numbers:
        return "There is nothing to draw: a chart needs rows, and a column of numbers beside what it is drawn over."
    if len(rows) > POINTS_MAX:
        return f"{len(rows)} rows are too many for a chart, which has at most {POINTS_MAX}; group them."
    below = _below(columns, kinds)
    drawn = [at for at in numbers if at != below][:SERIES_MAX]
    if below is None or not drawn:
        at = numbers[0]
        values = [_number(row[at]) for row in rows]
        return Drawing("number", [float(place) for place in range(1, len(rows) + 1)], [Series(columns[at][0], values)])
    if kinds[below] == "text":
        return _labelled(columns, rows, below, drawn)
    texts = [at for at, kind in enumerate(kinds) if kind == "text"]
    if len(texts) == 1 and len(drawn) == 1 and kinds[below] == "time":
        return _by_text(rows, below, texts[0], drawn[0])
    return _lines(columns, rows, below, drawn, kind=kinds[below])


def _below(columns: Sequence[tuple[str, str]], kinds: Sequence[str]) -> int | None:
    """What the others are drawn over: a time, else a text that goes before the numbers, else a first number of two."""
    for at, kind in enumerate(kinds):
        if kind == "time":
            return at
    first = next(at for at, kind in enumerate(kinds) if kind == "number")
    named = columns[first][0].lower() in BELOW_BY_NAME or first == 0
    if kinds.count("number") > 1 and named:
        return first
    return next((at for at, kind in enumerate(kinds) if kind == "text"), None)


def _labelled(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]], below: int, drawn: Sequence[int]
) -> Drawing | str:
    if len(rows) > LABELS_MAX:
        return (
            f"{len(rows)} bars are too many, at most {LABELS_MAX} can be told apart; ORDER BY ... LIMIT {LABELS_MAX}."
        )
    labels = ["NULL" if row[below] is None else str(row[below]) for row in rows]
    series = [Series(columns[at][0], [_number(row[at]) for row in rows]) for at in drawn]
    return Drawing("label", [float(place) for place in range(len(rows))], series, labels=labels)


def _by_text(rows: Sequence[Sequence[Any]], below: int, text: int, drawn: int) -> Drawing:
    """A line for each of the texts with the largest sums; a text has no value where it has no row."""
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        x, y = _moment(row[below]), _number(row[drawn])
        if x is not None and y is not None:
            line = found.setdefault("NULL" if row[text] is None else str(row[text]), {})
            line[x] = line.get(x, 0.0) + y
    places = sorted({x for line in found.values() for x in line})
    chosen = sorted(found, key=lambda name: (-math.fsum(found[name].values()), name))[:SERIES_MAX]
    return Drawing("time", places, [Series(name, [found[name].get(x) for x in places]) for name in chosen])


def _lines(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]], below: int, drawn: Sequence[int], *, kind: str
) -> Drawing:
    place = _moment if kind == "time" else _number
    placed = [(x, row) for row in rows if (x := place(row[below])) is not None]
    placed.sort(key=lambda one: one[0])
    series = [Series(columns[at][0], [_number(row[at]) for _, row in placed]) for at in drawn]
    return Drawing(kind, [x for x, _ in placed], series)


def kind_of(type_name: str) -> str:
    """`time`, `number`, `text` or `other`."""
    if type_name.endswith("]") or type_name.startswith(("STRUCT", "MAP", "UNION")):
        return "other"
    if type_name.startswith(TIMES):
        return "time"
    if type_name.partition("(")[0] in NUMBERS:
        return "number"
    return "text" if type_name in ("VARCHAR", "UUID", "BOOLEAN") or type_name.startswith("ENUM") else "other"


def _number(value: Any) -> Value:
    """DECIMALs and integers beyond 2^53 come as text; what is no finite number is a hole."""
    if value is None or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _moment(value: Any) -> Value:
    """Seconds since 1970; a time without a zone is UTC, as everywhere in queries."""
    try:
        found = datetime.fromisoformat(str(value))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
