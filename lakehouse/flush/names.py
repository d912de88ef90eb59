"""Which keys of a document may become columns. The rest of them is kept whole in `_rest`.

A name is refused when it is empty, longer than 255 bytes, has control characters or half a surrogate pair, begins with
`_` (ours), or differs from another column only in case, because most query engines could not tell the two apart. Case
is what Unicode folds: `straße` and `STRASSE` differ in no more than that.
"""

from __future__ import annotations

from collections.abc import Iterable

COLUMNS_MAX = 1000
"""Typed columns of one table; a child that writes values as keys must not widen it without end."""
NAME_BYTES_MAX = 255


def is_possible(name: str) -> bool:
    """Whether this key could be a column if no other were in its way."""
    if not name or name[0] == "_" or len(name) > NAME_BYTES_MAX or min(name) < " ":
        return False
    try:
        return len(name.encode()) <= NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False


class Names:
    """The columns of one table, as they are taken one after the other."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._taken = {name.casefold(): name for name in known}

    def is_free(self, name: str) -> bool:
        """Whether this key is a column, or could become one if there is room."""
        return self._taken.get(name.casefold(), name) == name and is_possible(name)

    def has_room(self, name: str) -> bool:
        """Whether this key has a column, or one more is allowed."""
        return len(self._taken) < COLUMNS_MAX or name.casefold() in self._taken

    def take(self, name: str) -> None:
        self._taken[name.casefold()] = name
