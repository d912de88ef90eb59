from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.flush import structs
from lakehouse.flush.structs import Kind, Plan, Surprise

PLAN: Plan = (
    ("b", Kind.BOOL),
    ("i", Kind.INTEGER),
    ("d", Kind.DOUBLE),
    ("t", Kind.TEXT),
    ("j", Kind.JSON),
    ("_r", Kind.REST),
)


def read(*documents: str) -> structs.Read:
    return structs.read(pa.array(documents, pa.string()), PLAN)


def test_each_key_is_read_as_planned() -> None:
    found = read('{"b":true,"i":1,"d":2,"t":"x","j":{"k": 1},"_r":null}', '{"j":null,"_r":[1]}')
    assert {key: array.to_pylist() for key, array in found.arrays.items()} == {
        "b": [True, None],
        "i": [1, None],
        "d": [2.0, None],
        "t": ["x", None],
        "j": [b'{"k": 1}', None],
    }
    assert found.rest == {0: [("_r", b"null")], 1: [("_r", b"[1]")]}


@pytest.mark.parametrize(
    "document",
    ['{"b":1}', '{"i":1.0}', '{"i":"1"}', '{"i":true}', '{"d":"1"}', '{"d":1e999}', '{"t":1}', '{"t":[]}', '{"new":1}',
     '{"j":NaN}', '{"t":"\\ud800"}', '{"i":}', "{}{}", "{}\0{}", '{"j":' + "[" * 100_000 + "]" * 100_000 + "}"],
    ids=lambda document: document[:12],
)  # fmt: skip
def test_what_is_not_as_planned_is_a_surprise_in_its_chunk(document: str) -> None:
    documents = ['{"i":1}'] * 2 * structs.CHUNK_DOCUMENTS
    documents[structs.CHUNK_DOCUMENTS + 5] = document
    with pytest.raises(Surprise) as caught:
        read(*documents)
    assert (caught.value.start, caught.value.key) == (structs.CHUNK_DOCUMENTS, None)


@pytest.mark.parametrize(
    ("key", "value"), [("i", 2**63), ("i", -(2**63) - 1), ("d", 2**53), ("d", -(2**53) - 1), ("d", 1e300)]
)
@pytest.mark.parametrize("other", ["{}", '{"i":1,"d":1}'])
def test_a_number_that_may_lose_digits_is_a_surprise_that_names_its_key(key: str, value: float, other: str) -> None:
    with pytest.raises(Surprise) as caught:
        read(other, json.dumps({"i": 1, "d": 1} | {key: value}))
    assert caught.value.key == key


def test_chunks_hold_each_text_once_and_in_order() -> None:
    texts = [f'{{"i":{number}}}' for number in range(2 * structs.CHUNK_DOCUMENTS + 3)]
    found: list[Any] = list(structs.chunks(pa.array(["{}", *texts], pa.string()).slice(1)))
    assert [start for start, _, _ in found] == [0, structs.CHUNK_DOCUMENTS, 2 * structs.CHUNK_DOCUMENTS]
    assert [count for _, _, count in found] == [structs.CHUNK_DOCUMENTS, structs.CHUNK_DOCUMENTS, 3]
    assert "\n".join(bytes(lines).decode() for _, lines, _ in found) == "\n".join(texts)
    assert list(structs.chunks(pa.array([], pa.string()))) == []
