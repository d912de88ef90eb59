"""Lists in pages. A page ends with the name it ends at, so that nothing is doubled or left out while others write."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import TypeVar

from lakehouse.catalog.rest.problems import bad_request

PAGE_MAX = 1000
"""Rows of a page when pages are asked for and no size is."""
Row = TypeVar("Row")


class Page:
    """What of a list is wanted: everything behind a name, or so many rows of it."""

    def __init__(self, query: Mapping[str, str]) -> None:
        token, size = query.get("pageToken"), query.get("pageSize")
        self.after = _name_of(token) if token else ""
        self.size = _size_of(size) if size is not None else None if token is None else PAGE_MAX

    def cut(self, rows: Sequence[Row], names: Sequence[str]) -> tuple[Sequence[Row], str | None]:
        """The page of rows that come after `after`, and the token of the next one."""
        if self.size is None or len(rows) <= self.size:
            return rows, None
        return rows[: self.size], _token_of(names[self.size - 1])


def _size_of(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text[:10]) < 1:
        raise bad_request(f"pageSize is {text[:20]!r}, wanted a whole number of at least 1")
    return min(int(text[:10]), PAGE_MAX)


def _token_of(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _name_of(token: str) -> str:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        raise bad_request(f"pageToken is {token[:20]!r}, wanted one that an answer had as next-page-token") from None
