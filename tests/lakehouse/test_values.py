from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pytest

from lakehouse.flush import values


def fit(*texts: str | None, known: Any | None = None) -> tuple[Any, Any, list[int]]:
    found = values.fit(pa.array([text and text.encode() for text in texts], pa.binary()), known)
    if found.array is None:
        return None, None, found.misfits
    return str(found.array.type), found.array.to_pylist(), found.misfits


@pytest.mark.parametrize(
    ("texts", "kind", "stored", "misfits"),
    [
        (["1", None, "-2"], "int64", [1, None, -2], []),
        (["1", "2.5"], "double", [1.0, 2.5], []),
        (["1e3"], "double", [1000.0], []),
        (["1", str(2**64)], "int64", [1, None], [1]),
        ([str(2**64)], None, None, [0]),
        (["true", "false", None], "bool", [True, False, None], []),
        (['"a"', "[1]", '"b"'], "string", ["a", "[1]", "b"], []),
        (["{}", "[]"], "string", ["{}", "[]"], []),
        (['"a"', "1", '"b"'], "string", ["a", None, "b"], [1]),
        (["1", '"a"', "[]"], "string", [None, "a", "[]"], [0]),
        (["true", "1", "true"], "bool", [True, None, True], [1]),
        (['"\\ud800"'], None, None, [0]),
        (["9" * 5000, "1"], "int64", [None, 1], [0]),
        ([None, None], None, None, []),
        ([], None, None, []),
    ],
)
def test_a_new_column_takes_the_type_of_most_values(texts: Any, kind: Any, stored: Any, misfits: list[int]) -> None:
    assert fit(*texts) == (kind, stored, misfits)


def test_a_date_among_numbers_is_still_a_date() -> None:
    assert fit('"2013-01-01"', "1", '"2013-01-02"')[0] == "date32[day]"


def test_a_type_we_never_make_takes_nothing() -> None:
    assert fit("1", '"x"', None, known=pa.binary()) == (None, None, [0, 1])


def test_texts_with_and_without_newlines_are_the_same_to_as_texts() -> None:
    raws = msgspec.json.decode(b'[1,null,"x",[ ]]', type=list[msgspec.Raw])
    assert values.as_texts(raws).to_pylist() == [b"1", None, b'"x"', b"[ ]"]
    assert values.as_texts([b"[\n]", b"null", b"2"]).to_pylist() == [b"[\n]", None, b"2"]
    assert values.as_texts([]).to_pylist() == []
