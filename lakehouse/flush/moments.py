"""ISO text as timestamps and dates; below `values` and `structs`, which both ask it, so that they agree.

The parser is Arrow's: a timestamp is a date, `T` or a space, hours with minutes and seconds to the microsecond if
given, and an offset, which is turned into UTC. Text without an offset names no moment and stays text, and so does
anything outside the years 1 to 9999, which most readers cannot show. 0.02 us a value.

Arrow parses all or nothing and takes 50 us for a value alone, so `parse_one` says the same in Python where a column has
misfits; a test holds the two together.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.flush import scalars

TIMESTAMP = pa.timestamp("us", tz="UTC")
DATE = pa.date32()

PROBE_VALUES = 16

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
    return scalars.moment(text, is_date=kind == DATE)
