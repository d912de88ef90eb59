"""Every mistake of a message is told at once, with its place, in bounded number, time and memory."""

from __future__ import annotations

import json

import msgspec
import pytest

from rpc.dolake.complaints import BYTES_MAX, COMPLAINTS_MAX, complaint, complaints


class Wheel(msgspec.Struct):
    size: int


class Car(msgspec.Struct):
    name: str
    wheels: list[Wheel]
    seats: int | msgspec.UnsetType = msgspec.UNSET


def said(car: object) -> list[str]:
    return complaints(json.dumps(car), Car)


def test_what_is_right_needs_no_words() -> None:
    assert said({"name": "a", "wheels": [{"size": 1}], "novelty": 1}) == []


def test_every_mistake_has_its_place() -> None:
    assert said({"wheels": [{"size": 1}, {}, {"size": "2"}, 7], "seats": None}) == [
        "name: is required",
        "wheels[1].size: is required",
        "wheels[2].size: expected a whole number, got text",
        "wheels[3]: expected an object, got a whole number",
        "seats: expected a whole number, got null",
    ]


def test_there_are_never_more_than_a_few() -> None:
    assert len(said({"name": "a", "wheels": [{}] * 1000})) == COMPLAINTS_MAX


def test_a_long_message_hears_of_the_decoders_mistake_only() -> None:
    assert said({"wheels": [], "note": "x" * BYTES_MAX}) == []


def test_a_message_that_is_none_at_all_says_so() -> None:
    assert said([]) == ["message: expected an object, got a list"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name":"a","wheels":[{"size":true}]}', "wheels[0].size: expected a whole number, got true or false"),
        ('{"name":"a"}', "wheels: is required"),
        ('{"name":"a","wheels":[{}]}', "wheels[0].size: is required"),
        ('{"name":1.5,"wheels":[]}', "name: expected text, got a fraction"),
        ("null", "message: expected an object, got null"),
    ],
)
def test_a_decoders_error_is_put_in_words(text: str, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(text, type=Car)
    assert complaint(caught.value) == words
