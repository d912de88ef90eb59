"""What docs/schemas.md promises of every table, from the journal to what a reader finds."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.io.pyarrow import ArrowProjectionVisitor
from pyiceberg.types import DecimalType, FloatType, IntegerType, LongType

from lakehouse.catalog import null_lists
from lakehouse.conf import Settings
from tests.lakehouse.schema_site import Street

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def street(tmp_path: Path) -> Street:
    return Street(Settings(data_dir=tmp_path))


@pytest.mark.both
def test_types_come_from_all_values_of_a_flush_and_each_flush_changes_the_schema_once(street: Street) -> None:
    street.flush({"n": 1, "s": "x", "none": None}, {"n": 1.5, "day": "2013-01-01", "list": [1, {"a": None}]})
    assert street.columns() == {"n": "double", "s": "string", "day": "date", "list": "string"}
    street.flush({"n": 2, "b": True, "at": "2013-01-01T05:00:00+01:00", "long": 2**62}, {"more": {"x": 1}})
    assert list(street.columns().items())[4:] == [
        *(("b", "boolean"), ("at", "timestamptz"), ("long", "long"), ("more", "string"))
    ]
    assert len(street.table.metadata.schemas) == 2
    street.flush({"long": 1, "n": "soon"})
    assert len(street.table.metadata.schemas) == 2


def test_columns_of_others_widen_and_never_move(street: Street) -> None:
    street.foreign_table(i=IntegerType(), f=FloatType(), d=DecimalType(4, 2), l=LongType())
    street.flush({"i": 7, "f": 0.5, "d": "12.50", "l": 1})
    assert street.columns() == {"i": "int", "f": "float", "d": "decimal(4, 2)", "l": "long"}
    before, schemas = street.table.schema().column_names, len(street.table.metadata.schemas)
    street.flush({"new": 1, "l": 2, "d": 123456.78, "f": 0.1, "i": 2**31}, {"d": "1.005", "i": 1.5, "l": 2.5})
    assert street.columns() == {"i": "long", "f": "double", "d": "decimal(8, 2)", "l": "long", "new": "long"}
    assert street.table.schema().column_names[: len(before)] == before
    assert len(street.table.metadata.schemas) == schemas + 1
    assert street.rows("i", "f", "d", "l") == [
        (7, 0.5, Decimal("12.50"), 1),
        (2**31, 0.1, Decimal("123456.78"), 2),
        (None, None, None, None),
    ]
    assert street.rest() == [None, None, {"d": "1.005", "i": 1.5, "l": 2.5}]
    street.flush({"i": 1, "f": 0.5, "d": "1.00"})
    assert street.rows("i", "f", "d")[-1] == (1, 0.5, Decimal("1.00"))


def test_a_value_that_does_not_fit_goes_to_rest_whole_and_its_row_is_stored(street: Street) -> None:
    street.flush({"n": 1, "at": "2013-01-01", "ok": True})
    odd = {"n": {"deep": [1, "ü", None]}, "at": "soon", "ok": "yes"}
    street.flush(odd | {"s": "x"})
    assert street.rest() == [None, odd]
    assert street.rows("n", "s")[1] == (None, "x")


@pytest.mark.both
def test_odd_names_are_stored_in_rest_and_readable(street: Street) -> None:
    odd = {"": 1, "k" * 10_000: 2, "_op": "mine", "_rest": 3, "Price": 4, "a\nb": 5, "_ts_day": 6}
    street.flush({"price": 1.5}, {"price": 2.5} | odd)
    assert street.columns() == {"price": "double"}
    assert street.rest() == [None, odd]


def test_a_document_of_5000_keys_is_stored_and_what_has_no_room_is_in_rest(street: Street) -> None:
    wide = {f"k{number:04}": number for number in range(5000)}
    street.flush(wide)
    names = list(street.columns())
    (found,) = street.rows(*names)
    (rest,) = street.rest()
    assert len(names) == 1000
    assert dict(zip(names, found, strict=True)) | rest == wide


def test_every_digit_of_decimals_as_text_and_of_integers_survives(street: Street) -> None:
    price = "123456789012345678901234567890.12345678901234567890000"
    street.flush({"price": price, "n": 2**63 - 1}, {"price": "-0.10", "n": -(2**63)}, {"n": 2**63}, {"n": 10**30})
    assert street.rows("price", "n") == [(price, 2**63 - 1), ("-0.10", -(2**63)), (None, None), (None, None)]
    assert street.rest() == [None, None, {"n": 2**63}, {"n": 10**30}]


def test_nan_and_infinity_survive(street: Street) -> None:
    street.flush({"x": 1.5}, b'{"x":NaN}', b'{"x":Infinity}', b'{"x":-Infinity}')
    assert str(street.rows("x")) == str([(1.5,), (math.nan,), (math.inf,), (-math.inf,)])
    assert street.rest() == [None] * 4


@pytest.mark.parametrize("offset", ["Z", "+00:00", "+14:00", "-12:00", "+05:45", "-0330", "+09"])
def test_timestamps_with_any_offset_are_one_moment(street: Street, offset: str) -> None:
    hours, minutes = int(offset[1:3] or 0), int(offset[3:].strip(":") or 0)
    ahead = (-1 if offset[0] == "-" else 1) * (60 * hours + minutes)
    street.flush({"at": f"2013-01-01T12:34:56.789{offset}"})
    (moment,) = street.table.scan().to_arrow()["at"].cast(pa.int64()).to_pylist()
    assert moment == (1_357_043_696_789 - ahead * 60_000) * 1000


def test_objects_and_arrays_are_structs_and_lists_where_the_parent_says_so(street: Street) -> None:
    street.home.config = {"nested_values": "struct"}
    street.home.save()
    street.flush({"to": {"city": "Rome"}, "tags": ["a"], "items": [{"n": 1}]})
    assert list(street.columns()) == ["to", "tags", "items"]
    street.flush({"to": {"zip": 7, "city": None}, "tags": [], "items": [{"n": 2, "price": 1.5}, None]}, {"to": "Rome"})
    assert len(street.table.metadata.schemas) == 2
    assert street.rows("to", "tags", "items") == [
        ({"city": "Rome", "zip": None}, ["a"], [{"n": 1, "price": None}]),
        ({"city": None, "zip": 7}, [], [{"n": 2, "price": 1.5}, None]),
        (None, None, None),
    ]
    assert street.rest() == [None, None, {"to": "Rome"}]
    found = street.table.scan().to_arrow().sort_by("_seq")
    assert found["items"].to_pylist()[2] is None


def test_pyiceberg_still_makes_empty_lists_of_nulls(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    """When this fails, lakehouse.catalog.null_lists is not needed any more."""
    street.schema(nested="struct")
    street.flush({"items": [{"n": 1}]}, {"items": None})
    monkeypatch.setattr(ArrowProjectionVisitor, "list", null_lists.original)
    assert street.table.scan().to_arrow().sort_by("_seq")["items"].to_pylist() == [[{"n": 1}], []]


def test_a_schema_says_for_its_table_what_becomes_of_objects_and_which_types_columns_have(street: Street) -> None:
    street.schema(nested="struct", fields={"price": "decimal(9,2)", "note": "string", "at": "timestamptz"})
    street.flush({"price": 12.5, "note": "2013-01-01", "to": {"city": "Rome"}}, {"price": "0.10", "at": "soon"})
    assert street.rows("price", "note", "to") == [
        (Decimal("12.50"), "2013-01-01", {"city": "Rome"}),
        (Decimal("0.10"), None, None),
    ]
    assert street.columns()["price"] == "decimal(9, 2)"
    assert street.rest() == [None, {"at": "soon"}]
    street.schema(nested="json")
    street.flush({"back": {"city": "Bonn"}, "price": 12345678.25})
    assert street.rows("back", "price")[-1] == ('{"city": "Bonn"}', Decimal("12345678.25"))
    assert street.columns()["price"] == "decimal(10, 2)"
