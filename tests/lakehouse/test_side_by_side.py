"""Some of the work at a time: none is asked for before there is room, none is begun after a failure, none is lost."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

import pytest

from lakehouse.catalog.side_by_side import each

BOTH = pytest.mark.parametrize("at_a_time", [1, 3])


@BOTH
def test_what_came_of_it_is_in_order_and_one_is_in_memory_that_is_not_worked_at(at_a_time: int) -> None:
    lock, held, most = Lock(), 0, 0

    def items() -> Iterator[int]:
        nonlocal held, most
        for number in range(50):
            with lock:
                held += 1
                most = max(most, held)
            yield number

    def work(number: int) -> int:
        nonlocal held
        with lock:
            held -= 1
        return 2 * number

    assert each(work, items(), at_a_time) == (list(range(0, 100, 2)), None)
    assert most <= at_a_time + 1


def test_what_is_large_takes_the_room_of_several_and_what_is_larger_than_all_goes_alone() -> None:
    lock, running, seen = Lock(), list[int](), list[list[int]]()

    def work(size: int) -> None:
        with lock:
            running.append(size)
            seen.append([*running])
        with lock:
            running.remove(size)

    assert each(work, [1, 2, 4, 9, 1, 3, 2, 2, 20, 1] * 20, 4, lambda size: size)[1] is None
    assert len(seen) == 200
    assert max(sum(min(size, 4) for size in beside) for beside in seen) <= 4


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
