"""How large an object of ours is with everything it alone keeps alive, as Python says it.

Followed are our classes with slots, plain containers, a task and the coroutines it waits in. What a server, Twisted or
zlib holds is not ours to count, nor is what the allocator adds, so the process is larger than the sum of these.
"""

from __future__ import annotations

import sys
from asyncio import Future, Task
from collections.abc import Iterable, Iterator
from types import CoroutineType, MethodType
from typing import Any

PLAIN = (bytes, bytearray, float, int, str, list, tuple, dict, set, MethodType, Future, CoroutineType)
SMALL = range(-5, 257)
"""Python has each of these integers once."""


def size_bytes(root: object, *, shared: Iterable[object] = ()) -> int:
    """`shared` is what others hold as well; neither it nor what it leads to counts."""
    seen = {id(one) for one in shared}
    waiting: list[Any] = [root]
    total = 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or not _counts(one):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        waiting += _held_by(one)
    return total


def _counts(one: object) -> bool:
    if isinstance(one, int):
        return one not in SMALL
    return isinstance(one, PLAIN) or _is_ours(one)


def _is_ours(one: object) -> bool:
    kind = type(one)
    return "__slots__" in vars(kind) and kind.__module__.startswith("lakehouse.")


def _held_by(one: Any) -> Iterator[Any]:
    if isinstance(one, dict):
        yield from one
        yield from one.values()
    elif isinstance(one, (list, tuple, set)):
        yield from one
    elif isinstance(one, Task):
        yield one.get_coro()
    elif isinstance(one, CoroutineType):
        yield one.cr_await
    elif _is_ours(one):
        yield from (getattr(one, name, None) for name in type(one).__slots__)
