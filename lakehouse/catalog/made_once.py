"""What is made of an object that never changes, kept as long as that object is.

A schema is one: a new one gets a new id, and metadata of one commit shares it with that of the next. So what is kept
here ends with the metadata that `known_metadata` bounds, and nobody has to ask whether it is still true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import ref

K = TypeVar("K")
V = TypeVar("V")


class MadeOnce(Generic[K, V]):
    """A function of one object, by which object it is and not by what is equal. What it returns must not hold it."""

    def __init__(self, make: Callable[[K], V]) -> None:
        self._make = make
        self._made: dict[int, tuple[ref[Any], V]] = {}

    def __call__(self, of: K) -> V:
        key = id(of)
        known = self._made.get(key)
        if known is not None and known[0]() is of:
            return known[1]
        made = self._make(of)
        self._made[key] = ref(of, lambda gone: self._end(key, gone)), made
        return made

    def __len__(self) -> int:
        return len(self._made)

    def _end(self, key: int, gone: ref[Any]) -> None:
        """Another object may be where it was, if two threads made the same."""
        known = self._made.get(key)
        if known is not None and known[0] is gone:
            del self._made[key]
