"""A command for operators.

Django's checks before a command look at code, which operators do not change, and load every URL for it: 0.5 s and
27 MiB of each command, and of the deliverer as long as it lives. A test runs them, and `manage.py check` does.
"""

from __future__ import annotations

from django.core.management.base import BaseCommand

__all__ = ["Operation", "printable"]


class Operation(BaseCommand):
    requires_system_checks: list[str] = []


def printable(text: str) -> str:
    """As a terminal may be given it: children choose these words, and some signs move its cursor or turn lines."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
