"""What the properties of a table say. Anybody may have written them. Knows no database."""

from __future__ import annotations

from collections.abc import Mapping

DIGITS_MAX = 18


def number(properties: Mapping[str, str], name: str, low: int) -> int | None:
    """What a table's property says; None when it is no whole number that can be meant. Python refuses 5000 digits."""
    text = properties.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS_MAX:
        return None
    return found if (found := int(text)) >= low else None
