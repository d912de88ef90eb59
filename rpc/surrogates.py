"""Broken emoji in JSON: JavaScript's JSON.stringify writes half of a surrogate pair as `\\ud800`; no decoder takes it.

A child in JavaScript cannot help what its users cut in two, so the rest of such a text is kept and the half becomes
U+FFFD, as TextEncoder does it. Only what could not be read comes here: 16 MiB take 60 ms without another escape
and 0.4 s of nothing but escapes. Pure.
"""

from __future__ import annotations

import re
from typing import AnyStr, TypeVar

AnyFrame = TypeVar("AnyFrame", str, bytes, str | bytes)

HALVES_MAX = 10_000
"""Of one message; the rest of them stay what they are, and the message is refused."""

_HALF = r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_REST = r"(?:[^\\]++|\\[^u]|\\u[^dD]|\\u[dD][0-7]|" + _PAIR + r")*+"
"""Whole escapes, so that `\\\\ud800` is a backslash and five letters."""
_NEXT_IN_TEXT, _NEXT_IN_BYTES = re.compile(_REST + f"({_HALF})"), re.compile((_REST + f"({_HALF})").encode())


def mended(data: AnyFrame) -> AnyFrame:
    """The same JSON, equally long, with U+FFFD for every half of a pair; `data` itself when there is none."""
    if isinstance(data, str):
        return _mended(data, _NEXT_IN_TEXT, ("\\ud", "\\uD"), "\\ufffd")
    return _mended(data, _NEXT_IN_BYTES, (b"\\ud", b"\\uD"), b"\\ufffd")


def _mended(data: AnyStr, next_half: re.Pattern[AnyStr], signs: tuple[AnyStr, AnyStr], instead: AnyStr) -> AnyStr:
    if not any(sign in data for sign in signs):
        return data
    parts: list[AnyStr] = []
    at = 0
    while len(parts) < 2 * HALVES_MAX and (found := next_half.match(data, at)) is not None:
        parts += [data[at : found.start(1)], instead]
        at = found.end()
    parts.append(data[at:])
    return data[:0].join(parts) if at else data
