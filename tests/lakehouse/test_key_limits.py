"""The own limits of a key: what is unknown or cannot work is refused with words, and nothing is half taken."""

from __future__ import annotations

from typing import Any

import pytest

from lakehouse.key_limits import BOUNDS, HOUSE_LIMITS, MIB, KeyLimits


def test_a_key_that_says_nothing_is_limited_like_everybody() -> None:
    assert KeyLimits.of({}) == HOUSE_LIMITS
    assert [getattr(HOUSE_LIMITS, name) for name in BOUNDS] == [None] * len(BOUNDS)


def test_a_limit_that_is_null_is_that_of_the_house() -> None:
    assert KeyLimits.of({"burst_capacity": None}) == HOUSE_LIMITS


@pytest.mark.parametrize("name", BOUNDS)
def test_every_limit_can_be_what_its_bounds_say(name: str) -> None:
    low, high = BOUNDS[name]
    assert [getattr(KeyLimits.of({name: value}), name) for value in (low, high)] == [low, high]
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"limit {name} is {value}, wanted a whole number from {low} to {high}"):
            KeyLimits.of({name: value})


def test_a_payload_cannot_be_larger_than_a_message() -> None:
    assert BOUNDS["max_payload_bytes"][1] == 16 * MIB


@pytest.mark.parametrize("value", [True, "100", 1.5, 100.0, [], {}, -1, 0, 2**70])
def test_a_value_that_is_no_number_in_bounds_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"limit messages_per_second is .*, wanted a whole number from 1 to 1000000"):
        KeyLimits.of({"messages_per_second": value})


def test_a_name_nobody_knows_is_said_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="unknown limit mesages_per_second; known are max_payload_bytes, messages_per"):
        KeyLimits.of({"mesages_per_second": 1, "burst_capacity": 5})


@pytest.mark.parametrize("limits", [None, [], "burst_capacity", 5, [["burst_capacity", 5]]])
def test_what_is_no_object_is_refused(limits: Any) -> None:
    with pytest.raises(ValueError, match=r"limits are .*, wanted an object such as"):
        KeyLimits.of(limits)
