"""`read_json_auto('r2://bucket/events/2024/01/**/*.jsonl')` in a query means the table `events`, in that time. Pure.

The queries that events.do shows read JSON lines by their path, YYYY/MM/DD/HH, which is the time of the events. The
table holds the same events, each once, in fewer files, with columns that are there whether an event has them or not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from lakehouse.errors import InvalidQuery
from lakehouse.query.quoting import identifier

FUNCTIONS = {b"read_json_auto", b"read_json", b"read_ndjson", b"read_ndjson_auto"}
STORE = re.compile(r"(?:r2|s3|gs)://(?P<path>[^?#]*)\Z")
PATH = re.compile(r"\bread_(?:nd)?json(?:_auto)?\s*\(\s*'(?:r2|s3|gs)://", re.IGNORECASE)
ALL_OF = re.compile(r"(?:\*{1,2}/)*\*{1,2}(?:\.jsonl)?\Z")
"""Whatever is in a folder; a name or half a name would not be all of a time, which is all that is known here."""
NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
TABLE = "events"


def names_paths(sql: str) -> bool:
    """Whether a query reads paths; then a table without a namespace is one of events."""
    return PATH.search(sql) is not None


def in_words_of_the_lake(sql: str, starts: Sequence[int]) -> str:
    """The query with the table in the place of paths; `starts` are where its tokens begin, in bytes."""
    data = sql.encode()
    words = [data[start:end].strip() for start, end in pairwise([*starts, len(data)])]
    parts, at = [], 0
    for index in range(len(words) - 3):
        name, opening, path, closing = words[index : index + 4]
        if name.lower() not in FUNCTIONS or opening != b"(" or closing != b")" or path[:1] != b"'":
            continue
        found = STORE.match(path[1:-1].decode().replace("''", "'"))
        if found is None:
            continue
        parts += [data[at : starts[index]], _rows(found["path"]).encode()]
        at = starts[index + 3] + 1
    return b"".join([*parts, data[at:]]).decode() if parts else sql


def _rows(path: str) -> str:
    """Raises InvalidQuery."""
    table, parts = _table(path.split("/"))
    span = _span(path, parts)
    where = "" if span is None else f" WHERE _ts >= TIMESTAMPTZ '{span[0]}' AND _ts < TIMESTAMPTZ '{span[1]}'"
    return f"(SELECT * FROM {table}{where})"  # noqa: S608 - a checked name and two times that were made here


def _table(parts: list[str]) -> tuple[str, list[str]]:
    """The table of a path, and what follows it: `[bucket/]events/...`, `bucket/...`, or as the export has it
    `bucket/[folder/]<namespace>/events/...`.
    """
    at = max((index for index, part in enumerate(parts) if part == TABLE), default=None)
    if at is None:
        return TABLE, parts[1:]
    if at < 2 or not NAMESPACE.match(parts[at - 1]):
        return TABLE, parts[at + 1 :]
    return f"{identifier(parts[at - 1])}.{TABLE}", parts[at + 1 :]


def _span(path: str, parts: list[str]) -> tuple[str, str] | None:
    """The time a path is for. Raises InvalidQuery."""
    numbers: list[int] = []
    while parts and parts[0].isascii() and parts[0].isdecimal() and len(numbers) < 4:
        numbers.append(int(parts[0][:9]))
        parts = parts[1:]
    if not ALL_OF.match("/".join(parts)):
        wanted = "wanted <bucket>/events/YYYY/MM/DD/HH/*.jsonl, all of a year, month, day or hour"
        raise InvalidQuery(f"the path {path[:100]!r} is none of events, {wanted}")
    if not numbers:
        return None
    try:
        first = datetime(*(numbers + [1, 1, 0][len(numbers) - 1 :])[:4], tzinfo=UTC)  # type: ignore[misc,arg-type]
        return first.isoformat(sep=" "), _end(first, len(numbers)).isoformat(sep=" ")
    except (ValueError, OverflowError):
        raise InvalidQuery(f"the path {path[:100]!r} names no time, wanted YYYY/MM/DD/HH") from None


def _end(first: datetime, parts: int) -> datetime:
    if parts == 1:
        return first.replace(year=first.year + 1)
    if parts == 2:
        return (first + timedelta(days=32)).replace(day=1)
    return first + (timedelta(days=1) if parts == 3 else timedelta(hours=1))
