"""When to come again, as HTTP writes it. Pure.

Source: RFC 9110, 10.2.3
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime


def retry_after_ms(text: str, *, now_ms: int, most_ms: int) -> int | None:
    """A Retry-After: seconds, or a moment. None for what is neither."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]) * 1000, most_ms)
    try:
        moment = parsedate_to_datetime(text)
        when_ms = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0, when_ms - now_ms), most_ms)
