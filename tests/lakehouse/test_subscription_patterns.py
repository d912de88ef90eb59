"""Patterns and their index: the same answer as asking one by one, whatever somebody writes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.subscriptions.patterns import PatternIndex, complaint, matches

SEGMENT = st.text("ab", min_size=1, max_size=3)
SOME = st.from_regex(r"\A(?:a|b|\*(?!\*)){1,4}\Z").filter(lambda glob: "**" not in glob)
GLOB = st.one_of(SEGMENT, st.just("*"), st.just("**"), SOME)


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
