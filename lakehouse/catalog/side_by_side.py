"""Work that waits for a store, of which as much is done at a time as there is room for. Knows no tables.

`each` gives what came of all of it, and `ahead` one after the other, of which some are done before they are asked for.
What is to be done is asked for in this thread, one ahead, so that no more is in memory. Where something failed nothing
more is begun: of a store that is away one waits for a few answers, and not for each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
THREADS = 8


def each(
    work: Callable[[T], R], items: Iterable[T], room: int, size: Callable[[T], int] = lambda _: 1
) -> tuple[list[R], BaseException | None]:
    """What came of them in their order, and what failed first. Room for one needs no thread.

    An item takes 1 at least, by its size more, and all the room at most.
    """
    if room <= 1:
        return _one_by_one(work, items)
    begun, failed = list[Future[R]](), None
    with ThreadPoolExecutor(room, "stage") as pool:
        running = dict[Future[Any], int]()
        try:
            for item in items:
                taken = min(size(item), room)
                if not _is_room(room - taken, running):
                    break
                begun.append(pool.submit(work, item))
                running[begun[-1]] = taken
                del item
        except Exception as exc:
            failed = exc
    errors = [error for one in begun if (error := one.exception()) is not None]
    return [one.result() for one in begun if one.exception() is None], failed or next(iter(errors), None)


def ahead(
    work: Callable[[T], R], items: Iterable[T], room: int, size: Callable[[T], int] = lambda _: 1
) -> Iterator[tuple[T, Callable[[], R]]]:
    """Each item in its order, and how to ask what came of it, which raises what failed. Room for one needs no thread.

    What is done and was not given yet takes room as what is worked at does. Whoever stops waits for what has begun.
    """
    if room <= 1:
        yield from ((item, partial(work, item)) for item in items)
        return
    with ThreadPoolExecutor(min(room, THREADS), "ahead") as pool:
        waiting = deque[tuple[T, Future[R], int]]()
        try:
            for item in items:
                taken = min(size(item), room)
                while sum(one[2] for one in waiting) > room - taken:
                    yield _first(waiting)
                waiting.append((item, pool.submit(work, item), taken))
            while waiting:
                yield _first(waiting)
        finally:
            for _, one, _ in waiting:
                one.cancel()


def _first(waiting: deque[tuple[T, Future[R], int]]) -> tuple[T, Callable[[], R]]:
    item, begun, _ = waiting.popleft()
    return item, begun.result


def _is_room(most: int, running: dict[Future[Any], int]) -> bool:
    """Waits until those at work take so much at most. False when one has failed."""
    while sum(running.values()) > most:
        for one in wait(running, return_when=FIRST_COMPLETED).done:
            del running[one]
            if one.exception() is not None:
                return False
    return True


def _one_by_one(work: Callable[[T], R], items: Iterable[T]) -> tuple[list[R], BaseException | None]:
    found = list[R]()
    try:
        found.extend(map(work, items))
    except Exception as exc:
        return found, exc
    return found, None
