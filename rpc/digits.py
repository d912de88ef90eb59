"""Numbers of JSON text that a double would bend: kept as they were written. Pure."""

from __future__ import annotations

import math
from decimal import Decimal

DIGITS_EXACT = 15
"""So many digits a double gives back."""


class Digits:
    """A number as it was written, which a double would bend."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def exact(text: str) -> float | Digits:
    """A number as a double of the same value, or else its digits."""
    value = float(text)
    if len(text) <= DIGITS_EXACT and "e" not in text and "E" not in text:
        return value
    return value if math.isfinite(value) and Decimal(text) == Decimal(repr(value)) else Digits(text)
