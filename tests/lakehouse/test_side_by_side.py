"""Some of the work at a time: none is asked for before there is room, none is begun after a failure, none is lost."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Barrier, Lock

import pytest

from lakehouse.catalog.side_by_side import THREADS, ahead, each

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


@BOTH
def test_what_is_done_ahead_is_given_in_order_and_a_failure_in_its_turn(at_a_time: int) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise KeyError("no third")
        return 2 * number

    given = []
    for number, ask in ahead(work, range(6), at_a_time):
        if number == 3:
            with pytest.raises(KeyError):
                ask()
        else:
            given.append(ask())
    assert given == [0, 2, 4, 8, 10]


@BOTH
def test_nobody_is_so_far_ahead_that_what_is_done_takes_more_than_the_room(at_a_time: int) -> None:
    asked = 0

    def items() -> Iterator[int]:
        nonlocal asked
        for number in range(50):
            asked += 1
            yield number

    for number, ask in ahead(lambda number: number, items(), at_a_time):
        assert ask() == number
        assert asked <= number + 1 + at_a_time


def test_what_is_large_keeps_others_from_being_done_ahead() -> None:
    asked = list[int]()

    def items() -> Iterator[int]:
        for size in [4, 1, 3, 9, 1, 1, 1, 1, 1, 1] * 5:
            asked.append(size)
            yield size

    for at, (_, ask) in enumerate(ahead(lambda size: size, items(), 4, lambda size: size)):
        assert ask() == asked[at]
        assert sum(min(size, 4) for size in asked[at + 1 : -1]) <= 4
    assert len(asked) == 50


def test_several_are_worked_at_before_the_first_is_asked_for() -> None:
    """Each waits for all others, which they never would be asked for one after the other."""
    all_of_them = Barrier(THREADS, timeout=20)

    def work(number: int) -> int:
        all_of_them.wait()
        return number

    assert [ask() for _, ask in ahead(work, range(THREADS), THREADS)] == list(range(THREADS))
