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

FUNCTIONS = {b"read_json_auto", b"read_json", b"read_ndjson", b"read_ndjson_auto"}
STORE = re.compile(r"(?:r2|s3|gs)://(?P<path>[^?#]*)\Z")
GLOB = re.compile(r"[A-Za-z0-9_*-]+(?:\.jsonl)?\Z")
TABLE = "events"


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
    span = _span(path)
    where = "" if span is None else f" WHERE _ts >= TIMESTAMPTZ '{span[0]}' AND _ts < TIMESTAMPTZ '{span[1]}'"
    return f"(SELECT * FROM {TABLE}{where})"  # noqa: S608 - two times that were made here


def _span(path: str) -> tuple[str, str] | None:
    """The time a path is for. Raises InvalidQuery."""
    parts = path.split("/")
    if parts[0] != TABLE or parts[1:2] == [TABLE]:
        parts = parts[1:]  # the bucket
    if parts[:1] == [TABLE]:
        parts = parts[1:]
    numbers: list[int] = []
    while parts and parts[0].isascii() and parts[0].isdecimal() and len(numbers) < 4:
        numbers.append(int(parts.pop(0)[:9]))
    if not parts or not all(GLOB.match(part) for part in parts):
        raise InvalidQuery(f"the path {path[:100]!r} is none of events, wanted <bucket>/events/YYYY/MM/DD/HH/*.jsonl")
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
