"""The bound above a long text, kept with its file, is a text too. pyiceberg 0.12 counts into half characters.

It cuts a text behind 16 characters and takes the next one for the last of them; behind U+D7FF that is U+D800, which
UTF-8 has no bytes for, and so the file could not be described at all. A test says when this is not needed any more.
"""

from __future__ import annotations

from pyiceberg.io import pyarrow as written
from pyiceberg.utils.truncate import truncate_upper_bound_text_string as original

FIRST_HALF, BEHIND_HALVES = "\ud800", "\ue000"


def mend() -> None:
    """For this process."""
    written.truncate_upper_bound_text_string = _bound  # type: ignore[attr-defined]


def _bound(value: str, trunc_length: int | None) -> str | None:
    found = original(value, trunc_length)
    return None if found is None else found.replace(FIRST_HALF, BEHIND_HALVES)
