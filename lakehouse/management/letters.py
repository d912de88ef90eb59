"""Which dead letters a command is about, as its options say."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError
from django.db.models import QuerySet

from lakehouse.models import Child, DeadLetter, Parent

NAMES_MAX = 20


def with_choice(parser: ArgumentParser) -> None:
    parser.add_argument("--parent", help="only letters of this parent")
    parser.add_argument("--child", help="only letters of this child")
    parser.add_argument("--table", help="only letters of this table")
    parser.add_argument("--since", metavar="DATE", help="only letters recorded since, such as 2026-11-21T08:00, in UTC")


def chosen(options: Mapping[str, Any]) -> QuerySet[DeadLetter]:
    """Raises CommandError."""
    parent, child, table, since = (options[name] for name in ("parent", "child", "table", "since"))
    found = DeadLetter.objects.all()
    if parent is not None:
        _check("parent", parent, Parent.objects.all())
        found = found.filter(parent__name=parent)
    if child is not None:
        _check("child", child, Child.objects.filter(parent__name=parent) if parent else Child.objects.all())
        found = found.filter(child__name=child)
    if table is not None:
        found = found.filter(table=table)
    return found if since is None else found.filter(created_ms__gte=_moment_ms(since))


def _check(what: str, name: str, rows: QuerySet[Any]) -> None:
    if not rows.filter(name=name).exists():
        known = ", ".join(rows.order_by("name").values_list("name", flat=True).distinct()[:NAMES_MAX]) or "none yet"
        raise CommandError(f"there is no {what} {name!r}; known are: {known}")


def _moment_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise CommandError(f"--since is {text!r}, wanted a date such as 2026-11-21 or 2026-11-21T08:00") from None


def number(option: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:18]) <= 10**9:
        raise CommandError(f"{option} is {text!r}, wanted a whole number from 1 to 1000000000")
    return int(text)
