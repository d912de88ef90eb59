from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.flush.plans import FIELDS_MAX, Survey
from lakehouse.flush.structs import CHUNK_DOCUMENTS, Kind, Plan, Surprise


def plan(*documents: str, types: dict[str, Any] | None = None) -> Plan | None:
    survey = Survey(types or {})
    assert survey.sample(pa.array(documents, pa.string())) == {}
    return survey.plan()


def test_each_key_is_planned_by_what_was_seen_of_it() -> None:
    first = '{"b":true,"i":1,"d":1,"t":"x","o":{},"n":null,"m":1,"_x":1}'
    assert plan(first, '{"b":null,"d":1.5,"o":[],"m":"x"}') == (
        ("b", Kind.BOOL),
        ("i", Kind.INTEGER),
        ("d", Kind.DOUBLE),
        ("t", Kind.TEXT),
        ("o", Kind.JSON),
        ("n", Kind.JSON),
        ("m", Kind.JSON),
        ("_x", Kind.REST),
    )


@pytest.mark.parametrize(
    ("known", "value", "kind"),
    [
        (pa.int64(), "1", Kind.INTEGER),
        (pa.int64(), "null", Kind.INTEGER),
        (pa.int64(), "1.5", Kind.JSON),
        (pa.float64(), "1", Kind.DOUBLE),
        (pa.string(), '"x"', Kind.TEXT),
        (pa.large_string(), '"x"', Kind.TEXT),
        (pa.timestamp("us", "UTC"), '"x"', Kind.TEXT),
        (pa.date32(), "1", Kind.JSON),
        (pa.bool_(), "true", Kind.BOOL),
        (pa.int32(), "1", Kind.INTEGER),
        (pa.float32(), "1.5", Kind.DOUBLE),
        (pa.decimal128(9, 2), "1", Kind.JSON),
    ],
)
def test_a_known_column_is_planned_by_its_type(known: Any, value: str, kind: Kind) -> None:
    assert plan(f'{{"a":{value}}}', types={"a": known}) == (("a", kind),)


def test_a_known_name_in_another_case_is_planned_for_rest() -> None:
    assert plan('{"A":1}', types={"a": pa.int64()}) == (("A", Kind.REST),)


@pytest.mark.parametrize(
    "document",
    ['{"a":1,"A":1}', '{"a":NaN}', '{"a":"\\ud800"}', '{"a\\"b":1}', '{"a\\\\":1}',
     json.dumps({f"k{number}": 1 for number in range(FIELDS_MAX + 1)})],
)  # fmt: skip
def test_some_documents_are_for_the_exact_path(document: str) -> None:
    assert plan(document) is None


def test_a_survey_learns_from_where_the_plan_failed_and_tells_what_is_not_json() -> None:
    survey = Survey({})
    texts = ['{"a":1}'] * CHUNK_DOCUMENTS + ['{"a":1.5}', "{", '{"c":"x"}']
    assert survey.sample(pa.array(texts[:1])) == {}
    assert list(survey.learn(pa.array(texts), Surprise(CHUNK_DOCUMENTS))) == [CHUNK_DOCUMENTS + 1]
    assert survey.plan() == (("a", Kind.DOUBLE), ("c", Kind.TEXT))
    survey.learn(pa.array(texts), Surprise(0, "c"))
    assert survey.plan() == (("a", Kind.DOUBLE), ("c", Kind.JSON))
