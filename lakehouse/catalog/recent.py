"""What is known of files by their names, as long as there is room, for threads.

A name with a UUID is one file and no other, ever, as the format's writers make them: what was read or written under it
stays true. Others, such as `v1.metadata.json`, may be another file tomorrow, and nothing is known of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

OF_ITS_OWN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(-m\d+)?(\.gz)?\.[a-z.]+$")
T = TypeVar("T")


def is_of_its_own(location: str) -> bool:
    return OF_ITS_OWN.search(location) is not None


class Recent(Generic[T]):
    """What was not asked for the longest goes first; what takes more than all the room is not kept."""

    def __init__(self, bytes_max: int, size_bytes: Callable[[T], int]) -> None:
        self._size_bytes = size_bytes
        self._kept: LRUCache[str, T] = LRUCache(bytes_max, getsizeof=size_bytes)
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process knows nothing yet."""
        return Recent, (int(self._kept.maxsize), self._size_bytes)

    def find(self, location: str) -> T | None:
        with self._lock:
            return self._kept.get(location)

    def keep(self, location: str, known: T) -> None:
        if is_of_its_own(location):
            with self._lock, suppress(ValueError):
                self._kept[location] = known

    def forget(self, location: str) -> None:
        with self._lock:
            self._kept.pop(location, None)
