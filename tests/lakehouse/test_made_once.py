"""What is made of an object is made once, and goes when it goes."""

from __future__ import annotations

import gc

from lakehouse.catalog.made_once import MadeOnce


class Thing:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


def test_it_is_made_once_of_each_object_and_not_of_what_is_equal() -> None:
    asked: list[Thing] = []

    def make(of: Thing) -> int:
        asked.append(of)
        return len(asked)

    made, one, other = MadeOnce(make), Thing(), Thing()
    assert [made(one), made(one), made(other), made(one)] == [1, 1, 2, 1]


def test_nothing_is_kept_of_objects_that_are_gone() -> None:
    made, one = MadeOnce[Thing, list[int]](lambda _: [1]), Thing()
    for _ in range(1000):
        made(Thing())
    assert made(one) is made(one)
    gc.collect()
    assert len(made) == 1


def test_what_failed_is_tried_again() -> None:
    answers = iter([ValueError("not yet"), 2])

    def make(_: Thing) -> int:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    made, one = MadeOnce(make), Thing()
    try:
        made(one)
    except ValueError:
        assert made(one) == 2
    else:
        raise AssertionError("it did not fail")
