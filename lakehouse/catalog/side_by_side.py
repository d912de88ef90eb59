"""Work that waits for a store, of which some is done at a time. Knows no tables.

What is to be done is asked for in this thread, and only when there is room for it, so that no more is in memory. Where
something failed nothing more is begun: of a store that is away one waits for a few answers, and not for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(work: Callable[[T], R], items: Iterable[T], at_a_time: int) -> tuple[list[R], BaseException | None]:
    """What came of them in their order, and what failed first. One at a time needs no thread."""
    if at_a_time <= 1:
        return _one_by_one(work, items)
    begun, failed = list[Future[R]](), None
    with ThreadPoolExecutor(at_a_time, "stage") as pool:
        running = set[Future[R]]()
        try:
            for item in items:
                begun.append(pool.submit(work, item))
                running.add(begun[-1])
                del item
                if len(running) == at_a_time:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    if any(one.exception() for one in done):
                        break
        except Exception as exc:
            failed = exc
    errors = [error for one in begun if (error := one.exception()) is not None]
    return [one.result() for one in begun if one.exception() is None], failed or next(iter(errors), None)


def _one_by_one(work: Callable[[T], R], items: Iterable[T]) -> tuple[list[R], BaseException | None]:
    found = list[R]()
    try:
        found.extend(map(work, items))
    except Exception as exc:
        return found, exc
    return found, None
