"""Some of the work at a time: none is asked for before there is room, none is begun after a failure, none is lost."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

import pytest

from lakehouse.catalog.side_by_side import each

BOTH = pytest.mark.parametrize("at_a_time", [1, 3])


@BOTH
def test_what_came_of_it_is_in_order_and_no_more_is_in_memory_than_is_worked_at(at_a_time: int) -> None:
    lock, waiting, most = Lock(), 0, 0

    def items() -> Iterator[int]:
        nonlocal waiting, most
        for number in range(50):
            with lock:
                waiting += 1
                most = max(most, waiting)
            yield number

    def work(number: int) -> int:
        nonlocal waiting
        with lock:
            waiting -= 1
        return 2 * number

    assert each(work, items(), at_a_time) == (list(range(0, 100, 2)), None)
    assert most <= at_a_time


@BOTH
def test_after_a_failure_nothing_is_begun_and_what_was_done_is_told(at_a_time: int) -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number >= 10:
            raise OSError(number)
        return number

    done, failed = each(work, range(50), at_a_time)
    assert isinstance(failed, OSError)
    assert failed.args == (10,)
    assert done == list(range(10))
    assert len(begun) <= 10 + at_a_time


@BOTH
def test_what_was_done_is_told_when_there_is_no_next(at_a_time: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("no third")

    done, failed = each(lambda number: number, items(), at_a_time)
    assert done == [1, 2]
    assert isinstance(failed, KeyError)


def test_whatever_a_thread_dies_of_is_a_failure() -> None:
    def work(number: int) -> int:
        raise SystemExit(number)

    assert isinstance(each(work, [1, 2], 2)[1], SystemExit)
