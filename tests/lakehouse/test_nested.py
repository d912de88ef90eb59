"""Objects and arrays as structs and lists."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.flush import documents
from lakehouse.flush.documents import Documents
from lakehouse.flush.nested import DEPTH_MAX, FIELDS_MAX, PLACES_MAX, TABLE_FIELDS_MAX, Places
from lakehouse.flush.rules import Rules

NESTED = Rules(is_nested=True)


def read(*values: Any, known: dict[str, Any] | None = None, rules: Rules = NESTED) -> Documents:
    """The values under the key `a`; bytes are JSON already."""
    texts = [one.decode() if isinstance(one, bytes) else json.dumps({"a": one}) for one in values]
    return documents.read(
        pa.array(texts, pa.string()), None if known is None else pa.schema(list(known.items())), rules
    )


def rest(found: Documents) -> list[Any]:
    return [text and json.loads(text)["a"] for text in found.rest.to_pylist()]


def test_an_object_is_a_struct_of_all_fields_that_any_has() -> None:
    found = read({"x": 1, "in": {"b": True}}, {"y": "u", "x": 2.5, "none": None}, None, {"in": {"c": [1, None]}})
    assert found.columns["a"].type == pa.struct(
        [
            ("x", pa.float64()),
            ("in", pa.struct([("b", pa.bool_()), ("c", pa.list_(pa.field("element", pa.int64())))])),
            ("y", pa.string()),
        ]
    )
    empty = {"x": None, "in": None, "y": None}
    assert found.columns["a"].to_pylist() == [
        empty | {"x": 1.0, "in": {"b": True, "c": None}},
        empty | {"x": 2.5, "y": "u"},
        None,
        empty | {"in": {"b": None, "c": [1, None]}},
    ]
    assert rest(found) == [None] * 4


def test_of_fields_that_have_one_name_in_files_the_first_is_there_and_the_other_in_rest() -> None:
    found = read({"x y": 1}, {"x y": 1, "x_x20y": 2}, {"1": 3}, {"_1": 4})
    assert found.columns["a"].type == pa.struct([("x y", pa.int64()), ("1", pa.int64())])
    assert rest(found) == [None, {"x y": 1, "x_x20y": 2}, None, {"_1": 4}]


def test_an_array_is_a_list_of_what_most_of_its_elements_are() -> None:
    found = read(["x", "y"], [], ["x", 1], [None])
    assert found.columns["a"].type == pa.list_(pa.field("element", pa.string()))
    assert found.columns["a"].to_pylist() == [["x", "y"], [], None, [None]]
    assert rest(found) == [None, None, ["x", 1], None]


@pytest.mark.parametrize("odd", [7, "text", [1], {"x": "text"}, {"x": 2**63}, {"x": 1.5}, {"x": {"deep": 1}}])
def test_a_value_of_another_shape_goes_to_rest_whole(odd: Any) -> None:
    known = {"a": pa.struct([("x", pa.int64())])}
    found = read({"x": 1}, odd, known=known)
    assert found.columns["a"].to_pylist() == [{"x": 1}, None]
    assert rest(found) == [None, odd]


def test_a_struct_gets_fields_and_keeps_those_it_has_in_their_places() -> None:
    known = {"a": pa.struct([("x", pa.int64()), ("l", pa.list_(pa.struct([("n", pa.int64())])))])}
    found = read({"new": True, "l": [{"m": "t"}]}, known=known)
    inner = pa.struct([("n", pa.int64()), ("m", pa.string())])
    assert found.columns["a"].type == pa.struct(
        [("x", pa.int64()), ("l", pa.list_(pa.field("element", inner))), ("new", pa.bool_())]
    )
    assert found.columns["a"].to_pylist() == [{"x": None, "l": [{"n": None, "m": "t"}], "new": True}]


def test_a_struct_grows_only_while_the_setting_says_so() -> None:
    known = {"a": pa.struct([("x", pa.int64())])}
    found = read({"x": 1}, {"x": 2, "new": 3}, known=known, rules=Rules())
    assert found.columns["a"].type == known["a"]
    assert found.columns["a"].to_pylist() == [{"x": 1}, None]
    assert rest(found) == [None, {"x": 2, "new": 3}]


def test_json_text_that_is_a_column_already_stays_what_it_is() -> None:
    found = read({"x": 1}, known={"a": pa.string()})
    assert found.columns["a"].to_pylist() == ['{"x": 1}']


def test_objects_beside_texts_stay_json_text() -> None:
    assert read({"x": 1}, "text").columns["a"].to_pylist() == ['{"x": 1}', "text"]


@pytest.mark.parametrize("odd", [{"": 1}, {"a.b": 1}, {"x" * 256: 1}, {"X": 1, "x": 2}, {"a\nb": 1}])
def test_names_that_no_field_may_have_keep_their_value_in_rest(odd: Any) -> None:
    found = read({"x": 1}, odd)
    assert found.columns["a"].to_pylist() == [{"x": 1}, None]
    assert rest(found) == [None, odd]


def test_what_has_no_fields_at_all_is_kept_in_rest() -> None:
    found = read({}, [], {"x": None})
    assert found.columns == {}
    assert rest(found) == [{}, [], {"x": None}]


def test_depth_and_fields_are_bounded_and_nothing_is_lost() -> None:
    deep: Any = 1
    for _ in range(DEPTH_MAX + 2):
        deep = {"d": deep}
    wide = {f"k{number}": number for number in range(FIELDS_MAX + 1)}
    found = read({"x": 1}, deep, known={"a": pa.struct([("x", pa.int64())])})
    assert rest(found) == [None, deep]
    found = read(wide, {"k0": 1})
    assert len(found.columns["a"].type) == FIELDS_MAX
    assert rest(found) == [wide, None]


def test_the_fields_of_a_table_are_bounded_whichever_column_they_are_in() -> None:
    columns = TABLE_FIELDS_MAX // FIELDS_MAX
    wide = {f"k{number}": number for number in range(FIELDS_MAX)}
    known = pa.schema([(f"c{at}", pa.struct([(key, pa.int64()) for key in wide])) for at in range(columns - 1)])
    texts = pa.array([json.dumps({"c0": {"k0": 0}, "a": wide, "b": wide, "c": [wide], "d": [1]})])
    found = documents.read(texts, known, NESTED)
    assert list(found.columns) == ["c0", "a", "d"]
    assert json.loads(found.rest[0].as_py()) == {"b": wide, "c": [wide]}
    grown = pa.schema([*known, *((name, array.type) for name, array in found.columns.items() if name != "c0")])
    found = documents.read(pa.array(['{"a": {"k1": 1}, "c1": {"new": 1}, "e": {"new": 1}}']), grown, NESTED)
    assert (list(found.columns), found.rest.to_pylist()) == (["a"], ['{"c1":{"new": 1},"e":{"new": 1}}'])


def test_empty_objects_in_lists_take_no_more_memory_than_a_column_may() -> None:
    known = {"a": pa.list_(pa.field("element", pa.struct([(f"k{at}", pa.int64()) for at in range(FIELDS_MAX)])))}
    many = b'{"a":[' + b",".join([b"{}"] * (PLACES_MAX // FIELDS_MAX + 1)) + b"]}"
    before = pa.total_allocated_bytes()
    found = read([{"k1": 1}], many, [{"k2": 2}], known=known)
    assert pa.total_allocated_bytes() - before < 2**20
    assert [value and len(value) for value in found.columns["a"].to_pylist()] == [1, None, 1]
    assert found.rest.to_pylist()[1] == many.decode()


@pytest.mark.parametrize(
    ("kind", "value", "places"),
    [
        (pa.list_(pa.int64()), [1] * 9, None),
        (pa.struct([("x", pa.int64())]), {"x": 1}, None),
        (pa.list_(pa.struct([("x", pa.int64()), ("y", pa.int64())])), [{}, None, {"x": 1}], 6),
        (pa.list_(pa.list_(pa.struct([("x", pa.int64())]))), [[{}, {}], [], None, [{}]], 4 + 3),
        (
            pa.struct([("l", pa.list_(pa.struct([("x", pa.list_(pa.int64()))])))]),
            {"l": [{"x": [1, 2]}, 7], "z": [1]},
            2,
        ),
        (pa.struct([("l", pa.list_(pa.struct([("x", pa.int64())])))]), [{"l": [{}]}], 0),
        (pa.struct([("l", pa.list_(pa.struct([("x", pa.int64())])))]), {"l": None}, 0),
    ],
)
def test_places_are_those_of_the_fields_of_each_element(kind: Any, value: Any, places: int | None) -> None:
    found = Places.of(kind)
    assert (found and found.count(value)) == places


def test_nan_and_integers_as_doubles_stay_what_they_are() -> None:
    found = read(b'{"a":{"x":NaN}}', b'{"a":{"x":1}}', b'{"a":{"x":9007199254740993}}', b'{"a":{"x":-Infinity}}')
    assert str(found.columns["a"].to_pylist()) == "[{'x': nan}, {'x': 1.0}, None, {'x': -inf}]"
    assert rest(found)[2] == {"x": 9007199254740993}


def test_a_number_beyond_a_double_is_kept_in_rest_and_never_becomes_infinity() -> None:
    found = read(b'{"a":{"x":1.5}}', b'{"a":{"x":1e400}}', b'{"a":{"x":2,"y":[-1e999]}}')
    assert found.columns["a"].to_pylist() == [{"x": 1.5}, None, None]
    assert found.rest.to_pylist() == [None, '{"a":{"x":1e400}}', '{"a":{"x":2,"y":[-1e999]}}']


@pytest.mark.parametrize(
    ("text", "known", "columns"),
    [
        ('{"a":{"b":1},"a.b":2}', None, {"a": '{"b":1}', "a.b": 2}),
        ('{"a":{"b":1},"a.b":2}', {"a": pa.struct([("b", pa.int64())])}, {"a": {"b": 1}}),
        ('{"a":{"b":1}}', {"a.b": pa.int64()}, {"a": '{"b":1}'}),
    ],
)
def test_a_key_with_a_point_never_meets_the_path_of_a_field(text: str, known: Any, columns: Any) -> None:
    found = read(text.encode(), known=known)
    assert {name: array[0].as_py() for name, array in found.columns.items()} == columns
    kept = {} if found.rest[0].as_py() is None else json.loads(found.rest[0].as_py())
    assert columns.keys() | kept.keys() == json.loads(text).keys()
