"""Columns people can read: moments instead of milliseconds, sizes and first bytes instead of payloads.

A column is made once for each field, because the admin tells columns apart by identity.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from django.contrib import admin
from django.template.defaultfilters import filesizeformat

from lakehouse import clock

Column = Any
"""A function of a row; Django's stubs know column names only."""

NOTHING = "-"
HEAD_BYTES = 32
"""So much of a payload is read and shown."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def moment_text(value_ms: int | None, *, now_ms: int) -> str:
    """`2026-11-21 03:37:00 UTC (3 min ago)`; a moment that never was is 0 or None."""
    if not value_ms:
        return NOTHING
    try:
        when = EPOCH + timedelta(milliseconds=value_ms)
    except OverflowError:
        return f"{value_ms} ms"
    age = age_text(now_ms - value_ms)
    return f"{when:%Y-%m-%d %H:%M:%S} UTC ({f'{age} ago' if value_ms <= now_ms else f'in {age}'})"


def age_text(age_ms: int) -> str:
    """`3 min`."""
    seconds = abs(age_ms) // 1000
    size, unit = next((row for row in UNITS if seconds >= row[0]), UNITS[-1])
    return f"{seconds // size} {unit}"


@cache
def moment(field: str) -> Column:
    """The column of a `*_ms` field."""

    def shown(row: Any) -> str:
        return moment_text(getattr(row, field), now_ms=clock.now_ms())

    return _column(shown, field, label=field.removesuffix("_ms"))


@cache
def size(field: str) -> Column:
    """The column of a number of bytes."""

    def shown(row: Any) -> str:
        return filesizeformat(getattr(row, field))

    return _column(shown, field, label="size" if field == "size_bytes" else field.replace("_bytes", "_size"))


@cache
def content(field: str) -> Column:
    """The column of a BinaryField that `ReadOnlyAdmin` left in the database: its size and how it begins."""

    def shown(row: Any) -> str:
        length, head = getattr(row, f"{field}_length"), bytes(getattr(row, f"{field}_head") or b"")
        if not length:
            return NOTHING
        return f"{filesizeformat(length)}: {head.hex(' ')}{' …' if length > len(head) else ''}"

    return _column(shown, f"{field}_length", label=field)


def _column(shown: Callable[[Any], str], field: str, *, label: str) -> Column:
    shown.__name__ = f"{field}_shown"
    return admin.display(shown, description=label.replace("_", " "), ordering=field)
