"""Columns that may become wider: int to long, float to double, a decimal of more digits. What Iceberg allows, no more.

Values are read as the wider type and made narrow again when all of them fit, so a column widens with the first flush
that needs it and not before. We never make the narrow ones by ourselves; they come with tables that others made, and
decimals with a schema. Pure.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.flush import scalars

WIDER: dict[Any, Any] = {pa.int32(): pa.int64(), pa.float32(): pa.float64()}


def narrowed(array: Any, known: Any) -> Any:
    """The array in the type of its column when nothing is lost by it, else as it is."""
    if known == pa.float32():
        back = array.cast(known, safe=False).cast(array.type)
        same = pc.or_(pc.equal(array, back), pc.and_(pc.is_nan(array), pc.is_nan(back)))
        return array if pc.all(same).as_py() is False else array.cast(known, safe=False)
    try:
        return array.cast(known)
    except pa.ArrowInvalid:
        return array


def decimals(texts: Any, known: Any) -> Any:
    """JSON numbers and texts of digits as decimals of this scale, null where one has more digits behind the point."""
    found = [None if text is None else scalars.decimal(text, known.scale) for text in texts.to_pylist()]
    digits = max((scalars.digits_before_point(value) for value in found if value is not None), default=0)
    return pa.array(found, pa.decimal128(max(known.precision, digits + known.scale), known.scale))


def either(one: Any, other: Any) -> Any:
    """The first of two arrays where it has a value, else the second; one may be wider than the other."""
    if one.type != other.type:
        wide = wider(one.type, other.type)
        one, other = one.cast(wide), other.cast(wide)
    return pc.coalesce(one, other)


def wider(one: Any, other: Any) -> Any:
    """The one of these types that a column of the other may become; the first when that is neither."""
    if pa.types.is_decimal(one) and pa.types.is_decimal(other) and one.scale == other.scale:
        return one if one.precision >= other.precision else other
    return other if WIDER.get(one) == other else one
