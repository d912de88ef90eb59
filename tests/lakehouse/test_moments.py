from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lakehouse.flush import moments
from tests.repetition import at_length


def texts(*values: str | None) -> Any:
    return pa.array(values, pa.string())


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2013-01-01T05:00:00Z", datetime(2013, 1, 1, 5, tzinfo=UTC)),
        ("2013-01-01 05:00:00.123456Z", datetime(2013, 1, 1, 5, 0, 0, 123456, tzinfo=UTC)),
        ("2013-01-01T05:00:00+05:30", datetime(2012, 12, 31, 23, 30, tzinfo=UTC)),
        ("2013-01-01T05:00-0200", datetime(2013, 1, 1, 7, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime.min.replace(tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_a_moment_with_an_offset_is_stored_in_utc(text: str, moment: datetime) -> None:
    assert moments.infer(texts(None, text)).to_pylist() == [None, moment]


@pytest.mark.parametrize(
    "text",
    ["", "x", "2013-01-01T05:00:00", "2013-01-01T05:00:00.1234567Z", "2013-02-30T05:00:00Z", "2013-01-01T24:00:00Z",
     "2016-12-31T23:59:60Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-00:01", "0000-01-01T00:00:00Z",
     "0000-12-31", "2013-02-29", "2013-1-1", "20130101", "550e8400-e29b-41d4-a716-446655440000"],
)  # fmt: skip
def test_what_is_no_exact_moment_stays_text(text: str) -> None:
    assert moments.infer(texts(text)).to_pylist() == [text]


def test_dates_become_dates_only_when_all_are() -> None:
    assert moments.infer(texts("2013-01-01", None, "9999-12-31")).to_pylist() == [
        date(2013, 1, 1), None, date(9999, 12, 31)
    ]  # fmt: skip
    mixed = ["2013-01-01", "2013-01-01T05:00:00Z"]
    assert moments.infer(texts(*mixed)).to_pylist() == mixed


def test_a_misfit_behind_many_moments_is_seen() -> None:
    many = ["2013-01-01"] * 1000 + ["soon"]
    assert moments.parse(texts(*many), moments.DATE) is None
    assert moments.infer(texts(*many)).to_pylist() == many


def two(low: int, high: int) -> st.SearchStrategy[str]:
    return st.integers(low, high).map("{:02d}".format)


NEAR_MOMENTS = st.tuples(
    st.sampled_from(["2013", "2012", "0000", "0001", "9999", "213", "12013"]),
    st.just("-"),
    two(0, 13),
    st.just("-"),
    two(0, 32),
    st.sampled_from(["T", " ", "t", ""]),
    two(0, 25),
    st.sampled_from(["", ":00", ":59", ":60", ":00:00", ":00:59", ":00:60", ":00:00.", ":00:00.1", ":00:00.123456",
                     ":00:00.1234567", "00", "0000", ":", ":0"]),
    st.sampled_from(["", "Z", "z", "+00", "+23", "+24", "-23:59", "+01:60", "-0130", "+1", "+01:3", "+013", "-00:01"]),
).map("".join)  # fmt: skip
ODD_TEXTS = st.text("0123456789-:T Z+.", max_size=12) | st.dates().map(str) | st.just("\u0662013-01-01")


@settings(max_examples=at_length(3000), deadline=None, derandomize=True)
@given(NEAR_MOMENTS | ODD_TEXTS, st.sampled_from([moments.TIMESTAMP, moments.DATE]))
@example("9999-12-31T23:59:59-00:01", moments.TIMESTAMP)
@example("0001-01-01T00:00:00+00:01", moments.TIMESTAMP)
@example("2013-01-01T05", moments.DATE)
@example("2013-01-01\n", moments.DATE)
def test_one_text_is_parsed_as_arrow_parses_it(text: str, kind: Any) -> None:
    parsed = moments.parse(texts(text), kind)
    assert moments.parse_one(text, kind) == (None if parsed is None else parsed[0].as_py())


@pytest.mark.parametrize("kind", [moments.TIMESTAMP, moments.DATE])
def test_moments_no_reader_can_show_are_spelled_with_the_year_they_are_in(kind: Any) -> None:
    unit, number = (86_400_000_000, pa.int64()) if kind == moments.TIMESTAMP else (1, pa.int32())
    days = [11_248_738, 53_375_995, -53_375_996, -719_528, -719_894, 0, 19_737]
    time = " 00:00:00.000000Z" if kind == moments.TIMESTAMP else ""
    found = moments.spelled(pa.array([*(day * unit for day in days), None], number).cast(kind)).to_pylist()
    dates = ["32768-01-01", "148108-07-06", "-144169-06-28", "0000-01-01", "-0002-12-31", "1970-01-01", "2024-01-15"]
    assert found == [*(one + time for one in dates), None]


def test_the_first_and_the_last_microsecond_that_arrow_has_are_spelled() -> None:
    ends = pa.array([-(2**63), 2**63 - 1, -1], pa.int64()).cast(moments.TIMESTAMP)
    assert moments.spelled(ends).to_pylist() == [
        "-290308-12-21 19:59:05.224192Z",
        "294247-01-10 04:00:54.775807Z",
        "1969-12-31 23:59:59.999999Z",
    ]
    usual = pa.array([-1, 1_704_164_645_000_006], pa.int64()).cast(moments.TIMESTAMP)
    assert moments.spelled(usual).equals(usual.cast(pa.string()))
