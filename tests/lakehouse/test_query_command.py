"""`manage.py query`: a table for people, JSON and CSV for programs."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from django.conf import settings as site
from django.core.management import CommandError, call_command

from lakehouse.conf import Settings
from tests.lakehouse.query_site import Lake, day

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lake(tmp_path, monkeypatch):
    found = Lake(Settings(data_dir=tmp_path))
    found.commit("lake", "orders", day(0))
    found.commit("lake", "orders", day(1))
    found.commit("eu", "orders", day(0))
    monkeypatch.setattr(site, "EVODB", dataclasses.replace(found.settings))
    return found


def query(*args):
    out, err = io.StringIO(), io.StringIO()
    call_command("query", *args, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_people_get_a_table(lake):
    sql = "SELECT city, count(*) AS n, [1, 2] AS list, NULL AS nothing FROM orders GROUP BY city ORDER BY 1"
    out, _ = query(sql)
    head, line, *rows, took = out.splitlines()
    assert [head.split(), set(line)] == [["city", "n", "list", "nothing"], {"-", " "}]
    assert [row.split() for row in rows] == [["city-0", "24", "[1,2]"], ["city-1", "24", "[1,2]"]]
    assert took.startswith("2 rows in ")


def test_programs_get_json_or_csv_and_a_word_when_it_was_cut(lake, monkeypatch):
    out, err = query("SELECT _seq FROM orders ORDER BY 1", "--format", "json", "--limit", "2")
    found = json.loads(out)
    assert (found["rows"], found["truncated"]) == ([[0], [0]], True)
    assert "There were more" in err
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT count(*) AS n FROM orders"))
    assert query("-", "--format", "csv", "--namespace", "eu") == ("n\n24\n", "")


def test_a_value_with_other_ends_of_lines_is_the_same_in_csv(lake):
    out, _ = query("SELECT 'a\u2028b\x85c\x0cd' AS v", "--format", "csv")
    assert out == "v\na\u2028b\x85c\x0cd\n"


def test_a_value_moves_no_cursor_of_the_terminal_it_is_shown_in(lake):
    out, _ = query("SELECT 'x\x1b[2J\u202ey' AS \"h\x07\"")
    assert out.splitlines()[0].rstrip() == r"h\x07"
    assert out.splitlines()[2].rstrip() == r"x\x1b[2J\u202ey"


def test_the_lake_of_another_time_is_asked(lake):
    (first, _), *_ = lake.snapshots()
    out, _ = query("SELECT count(*) FROM orders", "--as-of", str(first), "--format", "csv")
    assert out.splitlines()[1] == "24"


def test_a_plan_is_shown_as_it_is(lake):
    assert "ICEBERG_SCAN" in query("EXPLAIN SELECT * FROM orders")[0]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["DROP TABLE orders"], r"wanted one SELECT; a query only reads \(FORBIDDEN\)"),
        (["SELECT * FROM nothing"], "in lake there is orders"),
        (["SELECT 1", "--limit", "0"], "--limit is 0, wanted at least 1"),
        (["SELECT * FROM orders", "--as-of", "never"], "'never' is no time"),
    ],
)
def test_what_cannot_be_answered_is_an_error_that_says_why(lake, args, said):
    with pytest.raises(CommandError, match=said):
        query(*args)
