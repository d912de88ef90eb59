from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from unittest.mock import ANY

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse.flush import documents
from lakehouse.flush.documents import Documents
from tests.repetition import at_length

UTC_US = pa.timestamp("us", "UTC")


def read(*texts: str | None, known: dict[str, Any] | None = None, plans_max: int = documents.PLANS_MAX) -> Documents:
    schema = None if known is None else pa.schema(list(known.items()))
    return documents.read(pa.array(texts, pa.string()), schema, plans_max=plans_max)


def columns(found: Documents) -> dict[str, Any]:
    return {name: (str(array.type), array.to_pylist()) for name, array in found.columns.items()}


def rest(found: Documents) -> list[Any]:
    return [text and json.loads(text) for text in found.rest.to_pylist()]


BOTH_PATHS = pytest.mark.parametrize("plans_max", [0, documents.PLANS_MAX], ids=["exact", "planned"])


@BOTH_PATHS
def test_every_kind_of_value_gets_its_type(plans_max: int) -> None:
    found = read(
        '{"b":true,"i":1,"d":1.5,"s":"x","t":"2013-01-01T05:00:00Z","day":"2013-01-01","o":{"k": [1]},"a":[],"n":null}',
        '{"b":false,"i":-2,"d":2,"s":"","t":"2013-01-01T05:00:00.25+02:00","day":"2013-01-02","o":{},"a":[1, 2]}',
        plans_max=plans_max,
    )
    assert columns(found) == {
        "b": ("bool", [True, False]),
        "i": ("int64", [1, -2]),
        "d": ("double", [1.5, 2.0]),
        "s": ("string", ["x", ""]),
        "t": (
            "timestamp[us, tz=UTC]",
            [datetime(2013, 1, 1, 5, tzinfo=UTC), datetime(2013, 1, 1, 3, 0, 0, 250000, tzinfo=UTC)],
        ),
        "day": ("date32[day]", [date(2013, 1, 1), date(2013, 1, 2)]),
        "o": ("string", ['{"k": [1]}', "{}"]),
        "a": ("string", ["[]", "[1, 2]"]),
    }
    assert rest(found) == [None, None]
    assert found.unreadable == {}


@BOTH_PATHS
def test_columns_come_in_the_order_of_the_table_then_of_the_first_document_then_of_the_alphabet(plans_max: int) -> None:
    found = read('{"z":1,"b":2}', '{"y":1,"c":3,"k":4}', known={"k": pa.int64(), "z": pa.int64()}, plans_max=plans_max)
    assert list(found.columns) == ["k", "z", "b", "c", "y"]


@BOTH_PATHS
def test_a_text_that_is_no_object_has_no_columns(plans_max: int) -> None:
    found = read("1", None, '{"a":1}', "null", "[{}]", '"x"', plans_max=plans_max)
    assert columns(found) == {"a": ("int64", [None, None, 1, None, None, None])}
    assert found.unreadable == {}


@BOTH_PATHS
@pytest.mark.parametrize(
    "broken",
    ["", "{", '{"a":1}{"a":2}', '{"a":1},{"a":2}', '{"a":01}', '{"a":}', "{'a':1}", '{"a":1} x', "x", '{"a":"\n"}',
     "{}\0{}",     '{"a":Inf}', '{"a":1.}', '{"a":"\\x"}', '{"a":1,}', "{a:1}", "[1", "1 2"],
)  # fmt: skip
def test_a_text_that_is_not_json_is_told_and_harms_no_other(broken: str, plans_max: int) -> None:
    found = read('{"a":1}', broken, '{"a":3}', plans_max=plans_max)
    assert list(found.unreadable) == [1]
    assert "JSON" in found.unreadable[1]
    assert columns(found) == {"a": ("int64", [1, None, 3])}


@BOTH_PATHS
def test_texts_that_only_together_are_json_are_not_taken_for_documents(plans_max: int) -> None:
    texts = ['{"a":1}{"a":2}', '{"b":[{}', '{"c":1}', "{}]}", '{"d":1}\0}']
    found = read(*texts, plans_max=plans_max)
    assert sorted(found.unreadable) == [0, 1, 3, 4]
    assert columns(found) == {"c": ("int64", [None, None, 1, None, None])}


@BOTH_PATHS
def test_json_nested_too_deep_is_unreadable_and_nothing_worse(plans_max: int) -> None:
    found = read('{"a":' + "[" * 200_000 + "]" * 200_000 + "}", '{"a":[1]}', plans_max=plans_max)
    assert "deep" in found.unreadable[0]
    assert columns(found) == {"a": ("string", [None, "[1]"])}


@BOTH_PATHS
def test_pretty_printed_documents_are_read_as_any_other(plans_max: int) -> None:
    text = json.dumps({"a": 1, "o": {"k": [1, 2]}}, indent=2)
    found = read(f" {text}\n", text, plans_max=plans_max)
    assert found.columns["a"].to_pylist() == [1, 1]
    assert [json.loads(value) for value in found.columns["o"].to_pylist()] == [{"k": [1, 2]}] * 2


@BOTH_PATHS
def test_the_last_of_two_equal_keys_wins(plans_max: int) -> None:
    assert columns(read('{"a":"x","a":2}', '{"a":3}', plans_max=plans_max)) == {"a": ("int64", [2, 3])}


@BOTH_PATHS
def test_integers_beyond_int64_keep_every_digit_in_rest(plans_max: int) -> None:
    found = read('{"a":9223372036854775807}', '{"a":9223372036854775808}', plans_max=plans_max)
    assert columns(found) == {"a": ("int64", [2**63 - 1, None])}
    assert found.rest.to_pylist() == [None, '{"a":9223372036854775808}']


@BOTH_PATHS
def test_integers_that_a_double_would_round_go_to_rest(plans_max: int) -> None:
    found = read('{"a":0.5}', '{"a":9007199254740992}', '{"a":9007199254740993}', '{"a":1e300}', plans_max=plans_max)
    assert columns(found) == {"a": ("double", [0.5, 2.0**53, None, 1e300])}
    assert found.rest.to_pylist() == [None, None, '{"a":9007199254740993}', None]


@BOTH_PATHS
def test_nan_and_infinity_survive_and_what_a_double_cannot_hold_does_not_become_them(plans_max: int) -> None:
    found = read('{"a":NaN}', '{"a":Infinity}', '{"a":-Infinity}', '{"a":1e400}', '{"a":2}', plans_max=plans_max)
    values = found.columns["a"].to_pylist()
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, None, 2.0]
    assert found.rest.to_pylist()[3] == '{"a":1e400}'


@BOTH_PATHS
def test_of_mixed_values_the_majority_gives_the_type(plans_max: int) -> None:
    found = read('{"a":1}', '{"a":"x"}', '{"a":2}', '{"a":true}', plans_max=plans_max)
    assert columns(found) == {"a": ("int64", [1, None, 2, None])}
    assert rest(found) == [None, {"a": "x"}, None, {"a": True}]


@BOTH_PATHS
def test_a_tie_is_won_by_text_then_numbers_then_booleans(plans_max: int) -> None:
    found = read('{"a":1,"b":true}', '{"a":"x","b":1}', plans_max=plans_max)
    assert columns(found) == {"a": ("string", [None, "x"]), "b": ("int64", [None, 1])}


@BOTH_PATHS
def test_a_column_stays_text_when_one_string_is_no_date(plans_max: int) -> None:
    found = read('{"a":"2013-01-01"}', '{"a":"2013-02-30"}', plans_max=plans_max)
    assert columns(found) == {"a": ("string", ["2013-01-01", "2013-02-30"])}


@BOTH_PATHS
def test_half_a_surrogate_pair_goes_to_rest_as_it_was_written(plans_max: int) -> None:
    found = read(r'{"a":"\ud800","b":1,"\udc00":3}', '{"a":"x"}', plans_max=plans_max)
    assert columns(found) == {"a": ("string", [None, "x"]), "b": ("int64", [1, None])}
    assert json.loads(found.rest[0].as_py()) == {"a": "\ud800", "\udc00": 3}


@BOTH_PATHS
def test_keys_that_can_be_no_column_go_to_rest_whole(plans_max: int) -> None:
    odd = {"_id": None, "": 1, "x" * 256: [1], "ü" * 128: 2, "a\tb": 3}
    found = read(json.dumps({"a": 1, **odd}), '{"a":2}', plans_max=plans_max)
    assert columns(found) == {"a": ("int64", [1, 2])}
    assert rest(found) == [odd, None]


@BOTH_PATHS
def test_of_keys_that_differ_in_case_only_the_first_or_known_one_is_the_column(plans_max: int) -> None:
    found = read('{"a":1,"A":2}', '{"A":3}', plans_max=plans_max)
    assert columns(found) == {"a": ("int64", [1, None])}
    assert rest(found) == [{"A": 2}, {"A": 3}]
    found = read('{"a":1,"A":2}', known={"A": pa.int64()}, plans_max=plans_max)
    assert columns(found) == {"A": ("int64", [2])}
    assert rest(found) == [{"a": 1}]


@BOTH_PATHS
def test_of_keys_that_have_one_name_in_files_the_first_or_known_one_is_the_column(plans_max: int) -> None:
    found = read('{"a b":1,"a_x20b":2}', '{"a_x20b":3}', plans_max=plans_max)
    assert columns(found) == {"a b": ("int64", [1, None])}
    assert rest(found) == [{"a_x20b": 2}, {"a_x20b": 3}]
    found = read('{"a b":1,"a_x20b":2}', known={"a_x20b": pa.int64()}, plans_max=plans_max)
    assert columns(found) == {"a_x20b": ("int64", [2])}
    assert rest(found) == [{"a b": 1}]


@BOTH_PATHS
def test_keys_beyond_the_limit_of_columns_go_to_rest(plans_max: int) -> None:
    found = read(json.dumps({f"k{number}": number for number in range(1010)}), '{"k5":7,"late":1}', plans_max=plans_max)
    assert len(found.columns) == 1000
    assert found.columns["k5"].to_pylist() == [5, 7]
    assert rest(found) == [{f"k{number}": number for number in range(1000, 1010)}, {"late": 1}]


@BOTH_PATHS
def test_known_columns_count_for_the_limit(plans_max: int) -> None:
    known = {f"k{number}": pa.int64() for number in range(1000)}
    found = read('{"k7":1,"new":2}', known=known, plans_max=plans_max)
    assert columns(found) == {"k7": ("int64", [1])}
    assert rest(found) == [{"new": 2}]


@BOTH_PATHS
@pytest.mark.parametrize(
    ("kind", "fitting", "stored", "misfits"),
    [
        (pa.int64(), ["1", "-0"], [1, 0], ["1.0", '"1"', "true", "[]", str(2**63)]),
        (pa.int32(), ["7"], [7], ["1.5", '"x"', str(2**63)]),
        (pa.float64(), ["1", "1.5", str(2**53)], [1.0, 1.5, 2.0**53], [str(2**53 + 1), '"1"', "false", "1e999"]),
        (pa.float32(), ["0.5", "NaN", "-Infinity"], [0.5, ANY, -math.inf], [str(2**53 + 1), '"x"', "true"]),
        (pa.bool_(), ["true", "false"], [True, False], ["1", '"true"', "{}"]),
        (pa.string(), ['"x"', "[1, 2]", '{"a":1}'], ["x", "[1, 2]", '{"a":1}'], ["1", "true", "0.5"]),
        (pa.large_string(), ['"x"', "[]"], ["x", "[]"], ["1"]),
        (pa.date32(), ['"2013-01-01"'], [date(2013, 1, 1)], ['"2013-01-01T05:00:00Z"', '"soon"', "1", '"0000-01-01"']),
        (
            UTC_US,
            ['"2013-01-01T05:00:00Z"'],
            [datetime(2013, 1, 1, 5, tzinfo=UTC)],
            ['"2013-01-01"', '"2013-01-01T05:00:00"', '"2013-01-01T05:00:00.1234567Z"', "1",
             '"9999-12-31T23:59:59-01:00"'],
        ),
        (
            pa.decimal128(9, 2),
            ["1", "1e3", '"-1234567.89"', '"0.10"', "2.500"],
            [Decimal(1), Decimal(1000), Decimal("-1234567.89"), Decimal("0.1"), Decimal("2.5")],
            ['"x"', "1.005", "true", "[]", '"1e3"', "1" + "0" * 37, "NaN"],
        ),
        (pa.time64("us"), [], [], ['"12:00:00"', "1"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_known_column_keeps_its_type_and_misfits_go_to_rest(
    kind: Any, fitting: list[str], stored: list[Any], misfits: list[str], plans_max: int
) -> None:
    texts = [f'{{"a":{value}}}' for value in [*fitting, *misfits]]
    found = read(*texts, known={"_op": pa.string(), "a": kind}, plans_max=plans_max)
    if stored:
        assert found.columns["a"].to_pylist() == stored + [None] * len(misfits)
        assert found.columns["a"].type == (pa.string() if kind == pa.large_string() else kind)
    assert found.rest.to_pylist() == [None] * len(fitting) + texts[len(fitting) :]


@BOTH_PATHS
@pytest.mark.parametrize(
    ("kind", "values", "wide", "stored"),
    [
        (pa.int32(), ["1", str(2**31)], pa.int64(), [1, 2**31]),
        (pa.int32(), ["1", "1.5", str(-(2**63))], pa.int64(), [1, None, -(2**63)]),
        (pa.float32(), ["0.5", "0.1"], pa.float64(), [0.5, 0.1]),
        (pa.float32(), ["null", "1e300"], pa.float64(), [None, 1e300]),
        (pa.decimal128(4, 2), ['"10.5"', "123.45"], pa.decimal128(5, 2), [Decimal("10.5"), Decimal("123.45")]),
        (pa.decimal128(4, 2), ['"' + "9" * 36 + '.99"'], pa.decimal128(38, 2), [Decimal("9" * 36 + ".99")]),
    ],
    ids=str,
)
def test_a_known_column_widens_when_a_value_needs_it(
    kind: Any, values: list[str], wide: Any, stored: list[Any], plans_max: int
) -> None:
    found = read(*(f'{{"a":{value}}}' for value in values), known={"a": kind}, plans_max=plans_max)
    assert (found.columns["a"].type, found.columns["a"].to_pylist()) == (wide, stored)


@BOTH_PATHS
def test_a_column_of_nulls_is_not_made(plans_max: int) -> None:
    assert read('{"a":null}', "{}", known={"a": pa.int64()}, plans_max=plans_max).columns == {}


def test_a_value_that_no_sample_shows_is_found_all_the_same() -> None:
    texts = [f'{{"a":{number}}}' for number in range(10_000)]
    texts[4321] = '{"a":"x","b":1.5}'
    texts[8765] = "{"
    found = read(*texts)
    assert list(found.unreadable) == [8765]
    assert found.columns["b"][4321].as_py() == 1.5
    assert found.columns["a"].null_count == 2
    assert [text for text in found.rest.to_pylist() if text] == ['{"a":"x"}']


def test_more_surprises_than_plans_end_on_the_exact_path() -> None:
    texts = [f'{{"a":{number}}}' for number in range(20_000)]
    for number in range(1, 9):
        texts[number * 2048 + 77] = f'{{"k{number}":1}}'
    found = read(*texts)
    assert list(found.columns) == ["a", *(f"k{number}" for number in range(1, 9))]


def test_no_documents_have_no_columns() -> None:
    assert read().columns == {}
    assert read(None, None).rest.to_pylist() == [None, None]


@pytest.mark.parametrize("text", ["1", "[1,\n2]", '{"a":1}', '"x"', " null "])
def test_check_passes_json_of_any_kind(text: str) -> None:
    assert documents.check(pa.array([None, "{}", text], pa.string())) == {}


def test_check_tells_which_text_is_not_json_even_if_all_together_count_right() -> None:
    assert sorted(documents.check(pa.array(["1\n2", "[3", None, ",4]"], pa.string()))) == [0, 1, 3]


# Properties -----------------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["2013-01-01", "2013-01-01T05:00:00Z", "2013-01-01 05:00:00+01", "0000-01-01", "\ud800"]),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.text(max_size=2), SCALARS, max_size=2))
KEYS = st.sampled_from(["a", "b", "c", "A", "_x", "", "é\\"])
MIXED = st.dictionaries(KEYS, VALUES, max_size=5)
UNIFORM = st.fixed_dictionaries(
    {"a": st.none() | st.integers(-(2**63), 2**63 - 1), "s": st.text()},
    optional={"d": st.floats(-1e9, 1e9), "t": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
              "o": st.lists(st.integers()), "b": st.booleans()},
)  # fmt: skip
TEXTS = st.builds(json.dumps, MIXED | UNIFORM, indent=st.sampled_from([None, 1]), ensure_ascii=st.just(True))
KNOWN = st.none() | st.dictionaries(
    st.sampled_from("abc"), st.sampled_from([pa.int64(), pa.float64(), pa.string(), pa.bool_(), UTC_US, pa.date32()])
)
FLUSHES = st.lists(UNIFORM.map(json.dumps), max_size=8) | st.lists(TEXTS | st.none() | st.text(max_size=4), max_size=8)
THOROUGH = settings(
    max_examples=at_length(300), deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@THOROUGH
@given(FLUSHES, KNOWN)
def test_the_planned_path_reads_what_the_exact_path_reads(
    texts: list[str | None], known: dict[str, Any] | None
) -> None:
    planned, exact = read(*texts, known=known), read(*texts, known=known, plans_max=0)
    assert repr(columns(planned)) == repr(columns(exact))
    assert planned.rest.to_pylist() == exact.rest.to_pylist()
    assert planned.unreadable.keys() == exact.unreadable.keys()


@THOROUGH
@given(st.lists(MIXED | UNIFORM, max_size=8), KNOWN)
def test_every_value_is_in_its_column_or_in_rest(made: list[dict[str, Any]], known: dict[str, Any] | None) -> None:
    found = read(*(json.dumps(one) for one in made), known=known)
    assert found.unreadable == {}
    for row, one in enumerate(made):
        left = json.loads(found.rest[row].as_py() or "{}")
        for key, value in one.items():
            if key in left:
                assert repr(left[key]) == repr(value)
            elif value is not None:
                assert_same(found.columns[key][row].as_py(), value)
            elif key in found.columns:
                assert found.columns[key][row].as_py() is None


def assert_same(stored: Any, value: Any) -> None:
    if isinstance(value, (list, dict)):
        assert repr(json.loads(stored)) == repr(value)
    elif isinstance(stored, datetime):
        assert stored == datetime.fromisoformat(value)
    elif isinstance(stored, date):
        assert stored == date.fromisoformat(value)
    elif isinstance(value, float) and math.isnan(value):
        assert math.isnan(stored)
    else:
        assert stored == value
        assert isinstance(stored, bool) == isinstance(value, bool)
        assert isinstance(stored, str) == isinstance(value, str)
