"""Which keys of a document may become columns. The rest of them is kept whole in `_rest`.

A name is refused when it is empty, longer than 255 bytes, has control characters or half a surrogate pair, begins with
`_` (ours), or differs from another column only in case, because most query engines could not tell the two apart. Case
is what Unicode folds: `straße` and `STRASSE` differ in no more than that. And within the files a column has a name that
Avro allows, where `a b` is `a_x20b`; who is called that already is in the way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

COLUMNS_MAX = 1000
"""Typed columns of one table; a child that writes values as keys must not widen it without end."""
NAME_BYTES_MAX = 255
_ORDINARY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_possible(name: str) -> bool:
    """Whether this key could be a column if no other were in its way."""
    if not name or name[0] == "_" or len(name) > NAME_BYTES_MAX or min(name) < " ":
        return False
    try:
        return len(name.encode()) <= NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False


def in_files(name: str) -> str:
    """What pyiceberg calls a column of this name in its files, case folded."""
    if _ORDINARY.fullmatch(name) or not name:
        return name.casefold()
    first, others = name[0], name[1:]
    begin = first if first.isalpha() or first == "_" else f"_{first}" if first.isdigit() else _escaped(first)
    end = (sign if sign.isalnum() or sign == "_" else _escaped(sign) for sign in others)
    return "".join([begin, *end]).casefold()


def are_apart(names: Collection[str]) -> bool:
    """Whether all of them can be columns of one table."""
    return all(len({key(name) for name in names}) == len(names) for key in (str.casefold, in_files))


def _escaped(sign: str) -> str:
    return f"_x{ord(sign):X}"


_RESERVED = b"evodb.reserved"


def reserving(schema: Any, names: Collection[str]) -> Any:
    """The Arrow schema of a table, of which it is known that no new column may have these names."""
    return schema.with_metadata({_RESERVED: json.dumps(sorted(names)).encode()}) if names else schema


def reserved_in(schema: Any | None) -> frozenset[str]:
    found = ((schema is not None and schema.metadata) or {}).get(_RESERVED)
    return frozenset(json.loads(found)) if found else frozenset()


class Names:
    """The columns of one table, as they are taken one after the other.

    `nested` are those that have columns of their own: beside `a` with a `b` there can be no `a.b`. Where it is not open
    no key takes a name that is not known. `reserved` are names of partitions, which no new column may have.
    """

    def __init__(
        self,
        known: Iterable[str] = (),
        *,
        nested: Collection[str] = (),
        is_open: bool = True,
        reserved: Collection[str] = (),
    ) -> None:
        self._taken: dict[str, str] = {}
        for name in known:  # a table of others may have two that differ in case
            self._taken.setdefault(name.casefold(), name)
        self._in_files = {in_files(name) for name in self._taken.values()}
        self._nested = nested
        self._is_open = is_open
        self._reserved = reserved

    def is_free(self, name: str) -> bool:
        """Whether this key is a column, or could become one if there is room."""
        taken = self._taken.get(name.casefold())
        if taken is not None:
            return taken == name and is_possible(name)
        if name in self._reserved or not self._is_open or not is_possible(name) or in_files(name) in self._in_files:
            return False
        return not (self._nested and self._is_path(name))

    def has_room(self, name: str) -> bool:
        """Whether this key has a column, or one more is allowed."""
        return len(self._taken) < COLUMNS_MAX or name.casefold() in self._taken

    def _is_path(self, name: str) -> bool:
        return any(name[:at] in self._nested for at, sign in enumerate(name) if sign == ".")

    def take(self, name: str) -> None:
        self._taken[name.casefold()] = name
        self._in_files.add(in_files(name))
