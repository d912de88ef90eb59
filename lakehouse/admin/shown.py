"""Columns people can read: moments instead of milliseconds, sizes and first bytes instead of payloads.

A column is made once for each field, because the admin tells columns apart by identity.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from django.contrib import admin
from django.template.defaultfilters import filesizeformat

from lakehouse import clock

Column = Any
"""A function of a row; Django's stubs know column names only."""

NOTHING, UNBROKEN = "-", "\N{NO-BREAK SPACE}"
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


def moment_shown(value_ms: int | None, *, now_ms: int) -> str:
    """The same on a page, where a narrow column may break it before the bracket and nowhere else."""
    when, bracket, age = moment_text(value_ms, now_ms=now_ms).partition(" (")
    return when.replace(" ", UNBROKEN) + bracket + age.replace(" ", UNBROKEN)


def age_text(age_ms: int) -> str:
    """`3 min`."""
    seconds = abs(age_ms) // 1000
    size, unit = next((row for row in UNITS if seconds >= row[0]), UNITS[-1])
    return f"{seconds // size} {unit}"


@cache
def moment(field: str) -> Column:
    """The column of a `*_ms` field."""

    def shown(row: Any) -> str:
        return moment_shown(getattr(row, field), now_ms=clock.now_ms())

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
        return f"{filesizeformat(length)}: {_beginning(head)}{' …' if length > len(head) else ''}"

    return _column(shown, f"{field}_length", label=field)


def _beginning(head: bytes) -> str:
    """As text where it is one, though its last character may be cut; else byte by byte."""
    try:
        text = getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return head.hex(" ")
    return text if text.isprintable() else head.hex(" ")


def _column(shown: Callable[[Any], str], field: str, *, label: str) -> Column:
    shown.__name__ = f"{field}_shown"
    return admin.display(shown, description=label.replace("_", " "), ordering=field)
