"""ISO text as timestamps and dates; below `values` and `structs`, which both ask it, so that they agree.

The parser is Arrow's: a timestamp is a date, `T` or a space, hours with minutes and seconds to the microsecond if
given, and an offset, which is turned into UTC. Text without an offset names no moment and stays text, and so does
anything outside the years 1 to 9999, which most readers cannot show. 0.02 us a value.

Arrow parses all or nothing and takes 50 us for a value alone, so `parse_one` says the same in Python where a column has
misfits; a test holds the two together.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.flush import scalars

TIMESTAMP = pa.timestamp("us", tz="UTC")
DATE = pa.date32()

PROBE_VALUES = 16

BOUNDS: dict[Any, tuple[Any, Any]] = {
    TIMESTAMP: (
        pa.scalar(datetime.min.replace(tzinfo=UTC), TIMESTAMP),
        pa.scalar(datetime.max.replace(tzinfo=UTC), TIMESTAMP),
    ),
    DATE: (pa.scalar(date.min, DATE), pa.scalar(date.max, DATE)),
}
"""What readers can show; Arrow holds more."""

CYCLE_DAYS, CYCLE_YEARS = 146_097, 400
"""After which the calendar repeats."""
DAY_US = 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse(texts: Any, kind: Any) -> Any | None:
    """All texts as TIMESTAMP or DATE, or None when one of them is neither that nor null."""
    try:
        # Arrow goes on after a misfit and words an error for each, over 1 us a value: look at the first few alone.
        texts.slice(0, PROBE_VALUES).cast(kind)
        parsed = texts.cast(kind)
    except pa.ArrowInvalid:
        return None
    return None if is_beyond(parsed) else parsed


def is_beyond(array: Any) -> bool:
    """Whether one of these values is a moment outside the years 1 to 9999."""
    if array.type not in BOUNDS:
        return False
    low, high = BOUNDS[array.type]
    found = pc.min_max(array)
    return found["min"].is_valid and bool(pc.or_(pc.less(found["min"], low), pc.greater(found["max"], high)).as_py())


def spelled(array: Any) -> Any:
    """Moments as text. Arrow's own cast begins anew with the year 32768, and makes a remark of such a date."""
    if not is_beyond(array):
        return array.cast(pa.string())
    spell = _date if array.type == DATE else _moment
    numbers = array.cast(pa.int32() if array.type == DATE else pa.int64()).to_pylist()
    return pa.array([None if number is None else spell(number) for number in numbers], pa.string())


def infer(texts: Any) -> Any:
    """Texts as timestamps when every one is a timestamp, as dates when every one is a date, else as they came."""
    for kind in (TIMESTAMP, DATE):
        parsed = parse(texts, kind)
        if parsed is not None:
            return parsed
    return texts


def _moment(since_us: int) -> str:
    days, rest_us = divmod(since_us, DAY_US)
    time = (EPOCH + timedelta(microseconds=rest_us)).time()
    return f"{_date(days)} {time.isoformat('microseconds')}Z"


def _date(days: int) -> str:
    cycles, rest = divmod(days, CYCLE_DAYS)
    found = date(1970, 1, 1) + timedelta(days=rest)
    year = found.year + CYCLE_YEARS * cycles
    return f"{year:0{4 + (year < 0)}d}{found:-%m-%d}"


def parse_one(text: str, kind: Any) -> datetime | date | None:
    """One text as TIMESTAMP or DATE, or None."""
    return scalars.moment(text, is_date=kind == DATE)
