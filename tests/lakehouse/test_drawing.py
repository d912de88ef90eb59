"""What a chart shows: bars by minute, and what of an answer can be drawn."""

from __future__ import annotations

import json

import pytest

from lakehouse.dashboard import drawing
from lakehouse.dashboard.drawing import Drawing, by_minute, of_answer

MINUTE = drawing.MINUTE_MS
TIME, NUMBER, TEXT = "TIMESTAMP WITH TIME ZONE", "BIGINT", "VARCHAR"


def lines(found: Drawing | str) -> dict[str, list]:
    assert isinstance(found, Drawing), found
    return {one.name: one.values for one in found.series}


def test_every_minute_has_a_bar_though_nothing_was_in_it() -> None:
    found = by_minute({(2 * MINUTE, "a"): 3, (4 * MINUTE, "b"): 1}, since_ms=2 * MINUTE, until_ms=4 * MINUTE + 1)
    assert found.x == [120, 180, 240]
    assert lines(found) == {"a": [3, 0, 0], "b": [0, 0, 1]}


def test_rare_types_are_one_bar() -> None:
    counts = {(MINUTE, f"type-{number:02}"): 100 - number for number in range(12)}
    found = lines(by_minute(counts, since_ms=MINUTE, until_ms=MINUTE))
    assert list(found) == [f"type-{number:02}" for number in range(7)] + ["others"]
    assert sum(values[0] for values in found.values()) == sum(counts.values())


def test_numbers_over_a_time_are_lines_in_the_order_of_time() -> None:
    rows = [["2026-01-01T00:01:00Z", 2, "1.5"], ["2026-01-01T00:00:00Z", 1, None], [None, 9, "9"]]
    found = of_answer([("minute", TIME), ("count", NUMBER), ("total", "DECIMAL(9,2)")], rows)
    assert isinstance(found, Drawing)
    assert (found.kind, found.x) == ("time", [1767225600, 1767225660])
    assert lines(found) == {"count": [1, 2], "total": [None, 1.5]}


def test_a_text_beside_the_time_makes_a_line_for_each_of_its_values() -> None:
    rows = [["2026-01-01", "a", 1], ["2026-01-01", "b", 5], ["2026-01-02", "a", 2]]
    found = of_answer([("day", "DATE"), ("city", TEXT), ("count", NUMBER)], rows)
    assert lines(found) == {"b": [5, None], "a": [1, 2]}


def test_numbers_beside_a_text_are_bars_with_labels() -> None:
    found = of_answer([("city", TEXT), ("count", "HUGEINT")], [["Paris", "9007199254740993"], [None, 1]])
    assert isinstance(found, Drawing)
    assert (found.kind, found.labels) == ("label", ["Paris", "NULL"])
    assert lines(found) == {"count": [9007199254740992, 1]}


def test_a_number_alone_is_drawn_row_by_row_and_the_first_of_two_lies_below() -> None:
    assert lines(of_answer([("n", NUMBER)], [[3], [4]])) == {"n": [3, 4]}
    found = of_answer([("x", NUMBER), ("y", "DOUBLE")], [[2, 1.0], [1, "NaN"]])
    assert isinstance(found, Drawing)
    assert (found.kind, found.x, lines(found)) == ("number", [1, 2], {"y": [None, 1]})


@pytest.mark.parametrize(
    ("columns", "rows", "said"),
    [
        ([("city", TEXT)], [["a"]], "a column of numbers"),
        ([("n", NUMBER)], [], "needs rows"),
        ([("n", "BIGINT[]")], [[[1]]], "a column of numbers"),
        ([("n", NUMBER)], [[1]] * 10_001, "10001 rows are too many"),
        ([("city", TEXT), ("n", NUMBER)], [["a", 1]] * 201, "201 bars are too many"),
    ],
)
def test_what_cannot_be_drawn_says_why(columns: list, rows: list, said: str) -> None:
    found = of_answer(columns, rows)
    assert isinstance(found, str)
    assert said in found


def test_a_drawing_is_json_whatever_its_names_are() -> None:
    found = by_minute({(MINUTE, '</script>"'): 1}, since_ms=MINUTE, until_ms=MINUTE)
    assert json.loads(found.json) == {
        "kind": "time",
        "x": [60],
        "labels": [],
        "stacked": True,
        "series": [{"name": '</script>"', "values": [1]}],
    }
