"""ISO text as timestamps and dates; below `values` and `structs`, which both ask it, so that they agree.

The parser is Arrow's: a timestamp is a date, `T` or a space, hours with minutes and seconds to the microsecond if
given, and an offset, which is turned into UTC. Text without an offset names no moment and stays text, and so does
anything outside the years 1 to 9999, which most readers cannot show. 0.02 us a value.

Arrow parses all or nothing and takes 50 us for a value alone, so `parse_one` says the same in Python where a column has
misfits; a test holds the two together.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

TIMESTAMP = pa.timestamp("us", tz="UTC")
DATE = pa.date32()

PROBE_VALUES = 16

_SHAPE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[ T]([0-9]{2})(?::([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?)?"
    r"(?:Z|([+-])([0-9]{2})(?::?([0-9]{2}))?))?"
)

_BOUNDS: dict[Any, tuple[Any, Any]] = {
    TIMESTAMP: (
        pa.scalar(datetime.min.replace(tzinfo=UTC), TIMESTAMP),
        pa.scalar(datetime.max.replace(tzinfo=UTC), TIMESTAMP),
    ),
    DATE: (pa.scalar(date.min, DATE), pa.scalar(date.max, DATE)),
}


def parse(texts: Any, kind: Any) -> Any | None:
    """All texts as TIMESTAMP or DATE, or None when one of them is neither that nor null."""
    try:
        # Arrow goes on after a misfit and words an error for each, over 1 us a value: look at the first few alone.
        texts.slice(0, PROBE_VALUES).cast(kind)
        parsed = texts.cast(kind)
    except pa.ArrowInvalid:
        return None
    low, high = _BOUNDS[kind]
    found = pc.min_max(parsed)
    if found["min"].is_valid and (pc.less(found["min"], low).as_py() or pc.greater(found["max"], high).as_py()):
        return None
    return parsed


def infer(texts: Any) -> Any:
    """Texts as timestamps when every one is a timestamp, as dates when every one is a date, else as they came."""
    for kind in (TIMESTAMP, DATE):
        parsed = parse(texts, kind)
        if parsed is not None:
            return parsed
    return texts


def parse_one(text: str, kind: Any) -> datetime | date | None:
    """One text as TIMESTAMP or DATE, or None."""
    match = _SHAPE.fullmatch(text)
    if match is None or (match[4] is None) != (kind == DATE):
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    offset_hours, offset_minutes = int(match[9] or 0), int(match[10] or 0)
    try:
        if kind == DATE:
            return date(year, month, day)
        if offset_hours > 23 or offset_minutes > 59:
            return None
        moment = datetime(year, month, day, hour, minute, second, int((match[7] or "").ljust(6, "0")), tzinfo=UTC)
        offset = timedelta(hours=offset_hours, minutes=offset_minutes)
        return moment + offset if match[8] == "-" else moment - offset
    except (ValueError, OverflowError):
        return None
