"""Patterns and their index: the same answer as asking one by one, whatever somebody writes."""

from __future__ import annotations

import functools
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.subscriptions.patterns import PatternIndex, complaint, wide_chars

SEGMENT = st.text("ab", min_size=1, max_size=3)
SOME = st.from_regex(r"\A(?:a|b|\*(?!\*)){1,4}\Z").filter(lambda glob: "**" not in glob)
GLOB = st.one_of(SEGMENT, st.just("*"), st.just("**"), SOME)


def matches(pattern: str, event_type: str) -> bool:
    index: PatternIndex[bool] = PatternIndex()
    index.add(pattern, True)
    return index.match(event_type) == (True,)


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("collection.insert", ["collection.insert"], ["collection", "collection.insert.x", "Collection.insert"]),
        ("collection.*", ["collection.insert", "collection.delete"], ["collection", "collection.a.b"]),
        ("webhook.**", ["webhook", "webhook.github", "webhook.github.push"], ["webhooks", "a.webhook"]),
        ("**", ["a", "a.b.c"], []),
        ("*.x", ["a.x", "b.x"], ["x", "a.b.x"]),
        ("web*.push", ["web.push", "webhook.push"], ["we.push", "webhook.a.push"]),
        ("*hook.push", ["hook.push", "webhook.push"], ["hooks.push"]),
        ("w*b*k", ["wbk", "webhook"], ["wk", "webhooks"]),
        ("**.x.**", ["x", "a.x", "x.b", "a.b.x.c"], ["a.b", "xx"]),
        ("a.**.b", ["a.b", "a.x.y.b"], ["a", "b", "a.b.c"]),
        ("**.**", ["a", "a.b"], []),
        ("*a*", ["a", "bab"], ["b", "a.a"]),
        ("aa*aa", ["aaaa", "aaxaa"], ["aaa"]),
    ],
)
def test_a_pattern_fits_what_it_says_and_nothing_else(pattern: str, fits: list[str], fits_not: list[str]) -> None:
    assert complaint(pattern) is None
    assert [one for one in fits if not matches(pattern, one)] == []
    assert [one for one in fits_not if matches(pattern, one)] == []


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("", "has 0 characters, wanted 1 to 256"),
        ("a" * 257, "has 257 characters"),
        ("a b", "wanted letters, digits"),
        ("a\n", "wanted letters, digits"),
        ("größe", "wanted letters, digits"),
        ("a[b]", "wanted letters, digits"),
        ("a..b", "has an empty segment"),
        (".a", "has an empty segment"),
        ("a.", "has an empty segment"),
        ("***", "wanted ** as a whole segment"),
        ("a.x**", "wanted ** as a whole segment"),
        (".".join("abcdefghijk"), "has 11 segments, wanted at most 10"),
    ],
)
def test_what_is_no_pattern_hears_why(pattern: str, said: str) -> None:
    assert said in (complaint(pattern) or "")


def by_regex(pattern: str, event_type: str) -> bool:
    """What the contract says, spelled out for one pattern."""
    found = ""
    for segment in pattern.split("."):
        if segment == "**":
            found += r"(?:\.[^.]*)*"
        else:
            found += r"\." + re.escape(segment).replace(r"\*", "[^.]*")
    return re.fullmatch(found, "." + event_type) is not None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(GLOB, min_size=1, max_size=5).map(".".join), max_size=12),
    st.lists(st.text("ab", max_size=3), min_size=1, max_size=6).map(".".join),
)
def test_the_index_says_what_each_pattern_says_alone(patterns: list[str], event_type: str) -> None:
    index: PatternIndex[int] = PatternIndex()
    for number, pattern in enumerate(patterns):
        index.add(pattern, number)
    wanted = [number for number, pattern in enumerate(patterns) if by_regex(pattern, event_type)]
    assert sorted(index.match(event_type)) == wanted
    assert sorted(index.match(event_type)) == wanted


PIECES = ("a", "ab", "*", "**", "a*", "*b", "a*b", "*a*")
MANY = [".".join(some) for length in (1, 2, 3) for some in itertools.product(PIECES, repeat=length)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("ab", max_size=4), min_size=1, max_size=5).map(".".join))
def test_many_patterns_say_what_each_says_alone(event_type: str) -> None:
    """So many that what fits is no longer written down one by one."""
    index = _of_many()
    wanted = [number for number, pattern in enumerate(MANY) if by_regex(pattern, event_type)]
    assert sorted(index.walk(event_type)) == wanted


@functools.cache
def _of_many() -> PatternIndex[int]:
    index: PatternIndex[int] = PatternIndex()
    for number, pattern in enumerate(MANY):
        index.add(pattern, number)
    return index


def test_several_values_of_one_pattern_and_its_like_are_all_there() -> None:
    index: PatternIndex[str] = PatternIndex()
    for value, pattern in enumerate(("a.*.**", "a.**.*", "a.*.**", "a.b", "a.b")):
        index.add(pattern, str(value))
    assert sorted(index.match("a.b")) == ["0", "1", "2", "3", "4"]


def test_a_type_with_stars_in_it_is_a_text_as_any_other() -> None:
    index: PatternIndex[str] = PatternIndex()
    index.add("a.*", "star")
    index.add("a.b", "literal")
    assert index.match("a.*") == ("star",)
    assert index.match("**") == ()


@pytest.mark.parametrize("pattern", ["a*b.**.c*", "a.b", "*.**.*.**", "**.a", "*a.b*"])
def test_an_ordinary_pattern_costs_no_letters(pattern: str) -> None:
    assert wide_chars(pattern) == 0


@pytest.mark.parametrize("pattern", ["*a*", "a*b*c.d", "**.a.**", "a.**.b.**"])
def test_a_wide_pattern_costs_its_letters(pattern: str) -> None:
    assert wide_chars(pattern) == len(pattern)


def test_a_pattern_added_later_is_asked_too() -> None:
    index: PatternIndex[str] = PatternIndex()
    assert index.match("a") == ()
    index.add("*", "late")
    assert index.match("a") == ("late",)


def test_a_pattern_built_to_explode_visits_no_place_twice() -> None:
    """With a way back for every star this would end after the universe."""
    index: PatternIndex[str] = PatternIndex()
    index.add(".".join(["**", "a*a*a*a*b"] * 5), "stars")
    index.add("*a*." + ".".join(["**"] * 9), "deep")
    assert index.match(".".join(["a" * 128] * 64)) == ("deep",)
