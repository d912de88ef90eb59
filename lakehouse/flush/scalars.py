"""Single JSON values, exactly or not at all: what the columns of `values` say of all at once. Pure, and without Arrow.

Each function takes the JSON text of a value (`moment` a text itself) and gives what a column of that type holds, or
None for a misfit.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from rpc.names import is_unicode

DOUBLE_EXACT_MAX = 2**53
"""Integers up to here are exact in a double."""
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
PRECISION_MAX = 38
"""Digits of a decimal."""

_INTEGER = re.compile(rb"-?[0-9]+")
_INTEGER_DIGITS_MAX = 19
_DECIMAL_CHARS_MAX = 100
_CONSTANTS = (b"NaN", b"Infinity", b"-Infinity")
_DECIMAL = re.compile(rb'-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?|"-?[0-9]+(?:\.[0-9]+)?"')
_MOMENT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[ T]([0-9]{2})(?::([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?)?"
    r"(?:Z|([+-])([0-9]{2})(?::?([0-9]{2}))?))?"
)


def boolean(value: bytes) -> bool | None:
    return {b"true": True, b"false": False}.get(value)


def integer(value: bytes, low: int = INT64_MIN, high: int = INT64_MAX) -> int | None:
    if not _INTEGER.fullmatch(value) or len(value.lstrip(b"-")) > _INTEGER_DIGITS_MAX:
        return None
    found = int(value)
    return found if low <= found <= high else None


def double(value: bytes) -> float | None:
    if _INTEGER.fullmatch(value):
        exact = integer(value, -DOUBLE_EXACT_MAX, DOUBLE_EXACT_MAX)
        return None if exact is None else float(exact)
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) or value in _CONSTANTS else None


def finite(digits: str) -> float:
    """A number with a fraction or an exponent. Raises ValueError for one beyond what a double reaches."""
    if math.isinf(found := float(digits)):
        raise ValueError(f"{digits:.40} is beyond a double")
    return found


def text(value: bytes) -> str | None:
    """A string as it is, an object or an array as JSON text."""
    return value.decode() if value[:1] in (b"{", b"[") else string(value)


def string(value: bytes) -> str | None:
    if value[:1] != b'"':
        return None
    found: str = json.loads(value)
    return found if is_unicode(found) else None


def decimal(value: bytes, scale: int) -> Decimal | None:
    """A number keeps every digit it was written with, however many a double would; so does a text of digits."""
    if len(value) > _DECIMAL_CHARS_MAX or not _DECIMAL.fullmatch(value):
        return None
    found = Decimal(value.strip(b'"').decode())
    _, digits, exponent = found.as_tuple()
    assert isinstance(exponent, int)
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    fits = not found or (exponent + zeros >= -scale and digits_before_point(found) + scale <= PRECISION_MAX)
    return found if fits else None


def digits_before_point(value: Decimal) -> int:
    return max(0, value.adjusted() + 1) if value else 0


def moment(value: str, *, is_date: bool) -> datetime | date | None:
    """ISO text as a timestamp in UTC, which it has an offset for, or as a date."""
    match = _MOMENT.fullmatch(value)
    if match is None or (match[4] is None) != is_date:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    offset_hours, offset_minutes = int(match[9] or 0), int(match[10] or 0)
    try:
        if is_date:
            return date(year, month, day)
        if offset_hours > 23 or offset_minutes > 59:
            return None
        found = datetime(year, month, day, hour, minute, second, int((match[7] or "").ljust(6, "0")), tzinfo=UTC)
        offset = timedelta(hours=offset_hours, minutes=offset_minutes)
        return found + offset if match[8] == "-" else found - offset
    except (ValueError, OverflowError):
        return None
