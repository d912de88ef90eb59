from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.flush import exact
from lakehouse.flush.exact import CHUNK_DOCUMENTS, NotJson
from lakehouse.flush.names import Names


def split(text: str) -> dict[str, str] | None:
    members = exact.split(text.encode())
    return members and {key: bytes(value).decode() for key, value in members.items()}


def test_values_keep_their_text() -> None:
    text = ' { "a" : 1.50 , "b":[1, {"c" :2}],"d":"\\u00fc", "e":123456789012345678901234567890,"f":NaN } '
    wanted = {"a": "1.50", "b": '[1, {"c" :2}]', "d": '"\\u00fc"', "e": "123456789012345678901234567890", "f": "NaN"}
    assert split(text) == wanted
    assert split(text.replace("NaN", "1")) == wanted | {"f": "1"}


@pytest.mark.parametrize("text", ["1", "null", ' "x" ', "[1, 2]", "NaN", '"\\ud800"'])
def test_other_values_have_no_members(text: str) -> None:
    assert split(text) is None


@pytest.mark.parametrize(
    "text", ["", " ", "{", "}", "{} {}", '{"a"}', '{"a":}', '{"a":1,}', '{"a":1 "b":2}', "{1:2}", "1 2", "nan", "[NaN"]
)
def test_other_texts_are_not_json(text: str) -> None:
    with pytest.raises(NotJson, match="not JSON"):
        split(text)


JSON_TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
).map(json.dumps)
ALPHABET = st.text(alphabet='{}[]":,\\ \n01.eE-+truefalsnNaI', max_size=12)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(JSON_TEXTS | ALPHABET)
def test_a_text_is_split_exactly_when_python_reads_it(text: str) -> None:
    try:
        wanted: Any = json.loads(text)
    except ValueError:
        with pytest.raises(NotJson):
            split(text)
        return
    members = split(text)
    if isinstance(wanted, dict):
        assert repr({key: json.loads(value) for key, value in (members or {}).items()}) == repr(wanted)
    else:
        assert members is None


def test_a_key_that_comes_late_is_null_before() -> None:
    texts = ['{"a":1}'] * CHUNK_DOCUMENTS * 2 + ['{"b":2}']
    found = exact.read(pa.array(texts), Names())
    assert found.arrays["a"].null_count == 1
    assert found.arrays["b"].null_count == 2 * CHUNK_DOCUMENTS
    assert found.arrays["b"][-1].as_py() == b"2"
