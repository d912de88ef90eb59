from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.schema import make_compatible_name

from lakehouse.flush.names import COLUMNS_MAX, Names, in_files, is_possible


@pytest.mark.parametrize("name", ["a", "A b", "ü", "a_", "x" * 255, "a.b", "'", "日" * 85])
def test_most_keys_can_be_columns(name: str) -> None:
    assert is_possible(name)


@pytest.mark.parametrize("name", ["", "_", "_op", "x" * 256, "日" * 86, "a\0", "\n", "\ud800"])
def test_some_keys_cannot(name: str) -> None:
    assert not is_possible(name)


def test_a_name_is_free_until_it_is_taken_in_another_case() -> None:
    names = Names(["Known"])
    names.take("new")
    assert [names.is_free(name) for name in ("Known", "known", "new", "NEW", "other")] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_room_ends_at_the_limit_but_not_for_those_inside() -> None:
    names = Names(f"k{number}" for number in range(COLUMNS_MAX - 1))
    assert names.has_room("last")
    names.take("last")
    assert not names.has_room("more")
    assert names.has_room("k0")


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("aZ_0 .½²٣"), min_size=1))
def test_the_name_in_files_is_the_one_that_pyiceberg_gives(name: str) -> None:
    assert in_files(name) == make_compatible_name(name).casefold()


def test_a_name_is_not_free_while_another_has_it_in_files() -> None:
    names = Names(["a b"])
    names.take("1x")
    odd = ("a_x20b", "A_X20B", "a b", "a_x20c")
    assert [names.is_free(name) for name in odd] == [False, False, True, True]
