"""A table as it was: by a time or a snapshot, in DuckDB's words and in those of other engines."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import pytest

from lakehouse.errors import InvalidQuery
from lakehouse.query import snapshots
from lakehouse.query.as_of import Token, in_duckdbs_words
from tests.lakehouse.query_site import asked, lake

__all__ = ["asked", "lake"]

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.django_db]


def text(moment_ms):
    return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")


@pytest.fixture
def third(lake):
    """Id and time of the snapshot after three of five commits, 72 rows."""
    return lake.snapshots()[2]


@pytest.mark.parametrize(
    "table",
    [
        "orders AT (TIMESTAMP => TIMESTAMPTZ '{moment}')",
        "orders AT (TIMESTAMP => '{moment}'::TIMESTAMPTZ + INTERVAL 0 DAY)",
        "lake.orders AT (VERSION => {id})",
        "orders AS OF '{moment}'",
        "orders AS OF {id}",
        "orders FOR TIMESTAMP AS OF TIMESTAMPTZ '{moment}'",
        "orders FOR SYSTEM_TIME AS OF '{moment}' AS o",
        "orders TIMESTAMP AS OF '{moment}' o",
        "orders FOR VERSION AS OF {id}",
        "orders VERSION AS OF {id} WHERE city <> 'AS OF 1'",
        '"orders" as of \'{moment}\' "o"',
        "orders AS OF '{moment}' -- then",
        "orders AS /* of */ OF -- that\n'{moment}' /* moment */ o",
        "orders FOR VERSION AS OF {id} -- the third\n AS o WHERE o._seq >= 0",
        "lake.orders AS OF {id} WHERE lake.orders._seq >= 0",
    ],
)
async def test_a_table_is_read_as_it_was(asked, third, table):
    number, moment_ms = third
    asked_for = table.format(id=number, moment=text(moment_ms))
    assert await asked.value(f"SELECT count(*) FROM {asked_for}") == 72


async def test_the_whole_query_is_of_one_moment_when_the_caller_says_so(asked, third):
    number, moment_ms = third
    sql = "SELECT count(*) FROM orders"
    assert await asked.value(sql, as_of=text(moment_ms)) == 72
    assert await asked.value(sql, as_of=str(number)) == 72
    assert await asked.value(sql) == 120


async def test_what_the_table_says_itself_goes_before_what_the_caller_says(asked, lake, third):
    (first, _), *_ = lake.snapshots()
    sql = f"SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM orders AT (VERSION => {first}))"
    assert await asked.rows(sql, as_of=text(third[1])) == [[72, 24]]


async def test_two_moments_of_one_table_are_compared_in_one_query(asked, third):
    sql = f"""
        SELECT o._ts, old._ts AS before FROM orders o LEFT JOIN orders old AT (VERSION => {third[0]}) USING (_ts)
        WHERE o._seq = 0 ORDER BY 1
    """
    assert [row[1] is None for row in await asked.rows(sql)] == [False, False, False, True, True]


async def test_the_columns_are_those_of_that_time(asked, third):
    now = await asked.answer("SELECT * FROM orders LIMIT 0")
    then = await asked.answer(f"SELECT * FROM orders AS OF {third[0]} LIMIT 0")
    assert [one.name for one in now.columns] == ["_ts", "_seq", "city", "late"]
    assert [one.name for one in then.columns] == ["_ts", "_seq", "city"]


async def test_a_query_with_a_moment_is_the_same_query_otherwise(asked, third):
    sql = """
        WITH days AS MATERIALIZED (SELECT date_trunc('day', _ts) AS day, count(*) AS rows FROM {table} GROUP BY ALL)
        SELECT day, rows, sum(rows) OVER (ORDER BY day ROWS UNBOUNDED PRECEDING) AS total,
            CASE WHEN rows > 1 THEN 'many' ELSE NULL END AS word, [x + 1 FOR x IN [1, 2]] AS list, {{'a': rows}}.a AS a,
            day::DATE IN ('2026-01-01') AS is_first
        FROM days WHERE rows BETWEEN 1 AND 1000 AND NOT EXISTS (FROM range(0))
        QUALIFY row_number() OVER () > 0
        ORDER BY day DESC NULLS LAST LIMIT 2 OFFSET 1
    """
    plain = await asked.rows(sql.format(table="orders"), as_of=str(third[0]))
    assert await asked.rows(sql.format(table=f"orders AT (VERSION => {third[0]})"), as_of="") == plain
    assert [row[2] for row in plain] == [48, 24]


async def test_before_the_first_snapshot_there_is_nothing_to_tell(asked):
    with pytest.raises(InvalidQuery, match=r"orders had no snapshot at 2020-01-01.*oldest one kept is of 20\d\d-"):
        await asked.answer("SELECT * FROM orders", as_of="2020-01-01")


@pytest.mark.parametrize(
    ("sql", "as_of", "said"),
    [
        ("SELECT * FROM orders AT (VERSION => 1)", "", "no snapshot 1, or it has expired; the newest are"),
        ("SELECT * FROM orders", "1", "no snapshot 1"),
        ("SELECT * FROM orders", "yesterday", "'yesterday' is no time, wanted"),
        ("SELECT * FROM orders AT (VERSION => 'x')", "", "wanted the id of a snapshot"),
        ("SELECT * FROM orders AT (TIMESTAMP => 'x')", "", "Conversion Error"),
        ("SELECT * FROM orders AT (TIMESTAMP => NULL)", "", "no time"),
        ("SELECT * FROM orders AT (TIMESTAMP => 'infinity')", "", "'infinity' is no time"),
        ("SELECT * FROM orders", "-infinity", "'-infinity' is no time"),
        ("SELECT * FROM orders", "7" * 5000, "77' is no time"),
        (f"SELECT * FROM orders AT (VERSION => '{'7' * 5000}')", "", "wanted the id of a snapshot"),
        ("SELECT * FROM orders AT (TIMESTAMP => ?)", "", "a value of your own goes into asOf"),
        ("SELECT * FROM orders AT (TIMESTAMP => _ts)", "", "AT (...) has column_ref"),
        ("WITH x AS (SELECT 1) SELECT * FROM x AT (VERSION => 1)", "", "there is no table x"),
    ],
)
async def test_a_moment_that_cannot_be_is_refused_with_what_was_wanted(asked, sql, as_of, said):
    with pytest.raises(InvalidQuery) as found:
        await asked.answer(sql, as_of=as_of)
    assert said in str(found.value)


def worded(sql):
    tokens = [Token(start, kind == duckdb.token_type.keyword) for start, kind in duckdb.tokenize(sql)]
    return in_duckdbs_words(sql, tokens)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS of, 2",
        "SELECT 'orders AS OF ''2026-01-01''' FROM t",
        'SELECT "x AS OF 1" FROM t -- AS OF 1',
        "SELECT * FROM t AS of WHERE of.a = 1",
        "SELECT * FROM t ASOF JOIN u USING (a)",
        "SELECT timestamp AS of FROM t",
        "",
        "-- AS OF 1",
        "SELECT é",
    ],
)
async def test_what_is_sql_already_is_left_alone(sql):
    assert worded(sql) == sql


async def test_offsets_are_bytes_so_that_names_may_have_any_letters():
    assert worded("FROM \"é\", ü AS OF 'ä' ö WHERE 'ß'") == "FROM \"é\", ü ö AT (TIMESTAMP => 'ä') WHERE 'ß'"


async def test_without_a_log_the_snapshots_themselves_say_when_they_were_current():
    metadata = {
        "location": "s3://b/t",
        "properties": {"write.data.path": "s3://b/elsewhere/"},
        "snapshots": [{"snapshot-id": 2, "timestamp-ms": 20}, {"snapshot-id": 1, "timestamp-ms": 10}],
    }
    assert snapshots.as_of(metadata, 15, table="t", moment="then") == 1
    assert snapshots.as_of(metadata, 20, table="t", moment="then") == 2
    assert snapshots.folders(metadata, "s3://b/t/metadata/1.json") == [
        "s3://b/elsewhere/",
        "s3://b/t/data/",
        "s3://b/t/metadata/",
    ]


async def test_a_snapshot_that_was_current_then_and_has_expired_is_not_replaced_by_another():
    log = [{"snapshot-id": 1, "timestamp-ms": 10}, {"snapshot-id": 2, "timestamp-ms": 20}]
    metadata = {"snapshots": [{"snapshot-id": 2, "timestamp-ms": 20}], "snapshot-log": log}
    with pytest.raises(InvalidQuery, match=r"expired; the oldest one kept is of 1970-01-01T00:00:00\.020"):
        snapshots.as_of(metadata, 15, table="t", moment="then")
