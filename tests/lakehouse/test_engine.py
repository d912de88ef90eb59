"""SQL over the lake: exact values, within bounds of rows, bytes and turns, and cancelled when nobody wants it."""

from __future__ import annotations

import asyncio
import csv
import io

import orjson
import psutil
import pyarrow as pa
import pytest

from lakehouse.errors import InvalidQuery, QueryCancelled, QueryTimeout, QueryUnavailable, TooManyQueries
from lakehouse.query import forks
from tests.lakehouse.query_site import asked, asking, lake

__all__ = ["asked", "lake"]

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.django_db]

ENDLESS = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5"
EXACT = [
    ("9007199254740991", 9007199254740991),
    ("9007199254740992", "9007199254740992"),
    ("-9007199254740993", "-9007199254740993"),
    ("170141183460469231731687303715884105727", "170141183460469231731687303715884105727"),
    ("340282366920938463463374607431768211455::UHUGEINT", "340282366920938463463374607431768211455"),
    ("12.50::DECIMAL(9, 2)", "12.50"),
    ("-99999999999999999999999999999999999.999::DECIMAL(38, 3)", "-99999999999999999999999999999999999.999"),
    ("0.1::DOUBLE", 0.1),
    ("1e308", 1e308),
    ("'nan'::DOUBLE", "NaN"),
    ("'inf'::DOUBLE", "Infinity"),
    ("'-inf'::FLOAT", "-Infinity"),
    ("true", True),
    ("NULL", None),
    ("''", ""),
    ("'Zürich ✈ \"x\"'", 'Zürich ✈ "x"'),
    ("'\\x00\\xFF'::BLOB", "AP8="),
    ("DATE '2026-02-28'", "2026-02-28"),
    ("DATE '0044-03-15 (BC)'", "0044-03-15 (BC)"),
    ("DATE 'infinity'", "infinity"),
    ("TIME '10:00:00.000001'", "10:00:00.000001"),
    ("TIMESTAMP '2026-01-31 12:00:00.123456'", "2026-01-31T12:00:00.123456"),
    ("TIMESTAMP '294246-12-31 00:00:00'", "294246-12-31T00:00:00"),
    ("TIMESTAMP 'infinity'", "infinity"),
    ("TIMESTAMP_NS '2026-01-31 12:00:00.123456789'", "2026-01-31T12:00:00.123456789"),
    ("TIMESTAMPTZ '2026-01-31 12:00:00+02'", "2026-01-31T10:00:00Z"),
    ("INTERVAL 14 MONTH", "1 year 2 months"),
    ("UUID '00000000-0000-0000-0000-00000000000f'", "00000000-0000-0000-0000-00000000000f"),
    ("'101'::BIT", "101"),
    ("[1, NULL, 9007199254740993]", [1, None, "9007199254740993"]),
    ("[1.5, 2.25]::DECIMAL(9,2)[2]", ["1.50", "2.25"]),
    ("{'a': 1.5, 'it''s \"b\"': [DATE '2026-01-01']}", {"a": "1.5", 'it\'s "b"': ["2026-01-01"]}),
    ("MAP {'a': 'nan'::DOUBLE}", [["a", "NaN"]]),
    ("MAP {[1]: 2.5}", [[[1], "2.5"]]),
    ("MAP {'key': [1], 'value': [2]}", [["key", [1]], ["value", [2]]]),
    ("row(1, 'x')", "(1, x)"),
    ("'{\"a\": 1.50}'::JSON", '{"a": 1.50}'),
]


async def test_every_value_comes_out_as_exact_as_it_was(asked):
    expressions = ", ".join(expression for expression, _ in EXACT)
    (row,) = await asked.rows(f"SELECT {expressions}")
    assert row == [wanted for _, wanted in EXACT]


async def test_columns_have_names_and_the_types_of_the_query(asked):
    answer = await asked.answer("SELECT _ts, _seq, 1.5 AS price, [_seq] AS list FROM orders LIMIT 1")
    assert [(one.name, one.type) for one in answer.columns] == [
        ("_ts", "TIMESTAMP WITH TIME ZONE"),
        ("_seq", "BIGINT"),
        ("price", "DECIMAL(2,1)"),
        ("list", "BIGINT[]"),
    ]
    assert answer.rows == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM orders",
        "SELECT count(*) FROM lake.orders",
        "SELECT count(*) FROM LAKE.orders",
        "SELECT count(*) FROM orders;",
        "FROM (TABLE orders) SELECT count(*)",
        "SELECT count(*) -- all of them",
        "WITH orders AS (FROM orders LIMIT 7) SELECT count(*) + 113 FROM orders",
        "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < 120) SELECT count(*) FROM t",
        "SELECT count(*) FROM range(120)",
        "SELECT count(*) FROM (SELECT unnest(range(120)))",
    ],
)
async def test_a_table_is_found_however_it_is_written(asked, sql):
    assert await asked.value(sql if "--" not in sql else f"{sql}\nFROM orders -- the end") == 120


async def test_rows_keep_the_order_the_query_gave_them(asked):
    rows = await asked.rows("SELECT range FROM range(9000) ORDER BY hash(range)")
    wanted = await asked.rows("SELECT list(range ORDER BY hash(range)) FROM range(9000)")
    assert [row[0] for row in rows] == wanted[0][0]


async def test_two_columns_may_have_one_name(asked):
    assert await asked.rows("SELECT 1 AS a, 2 AS a") == [[1, 2]]


async def test_columns_of_one_name_are_told_apart_in_arrow_and_csv_as_well(asked):
    answer = await asked.answer("SELECT 1 AS a, 2 AS a", format="arrow")
    assert pa.ipc.open_stream(answer.body).read_all().to_pylist() == [{"a": 1, "a_1": 2}]
    assert (await asked.answer("SELECT 1 AS a, 2 AS a", format="csv")).body == b"a,a_1\n1,2\n"


async def test_what_arrow_has_no_type_for_comes_as_text_and_not_as_another_value(asked):
    values = {
        "340282366920938463463374607431768211455::UHUGEINT": "340282366920938463463374607431768211455",
        "'101'::BIT": "101",
        "TIMETZ '10:00:00+02'": "10:00:00+02",
        "'12345678901234567890123456789012345678901234'::BIGNUM": "12345678901234567890123456789012345678901234",
        "'{\"a\":1}'::VARIANT": '{"a":1}',
        "[{'n': 5::UHUGEINT}]": [{"n": "5"}],
        "7::HUGEINT": 7,
    }
    sql = ", ".join(f"{expression} AS v{at}" for at, expression in enumerate(values))
    answer = await asked.answer(f"SELECT {sql}", format="arrow")
    (row,) = pa.ipc.open_stream(answer.body).read_all().to_pylist()
    assert list(row.values()) == list(values.values())


async def test_true_is_true_in_csv_as_in_json(asked):
    assert (await asked.answer("SELECT true, false, NULL", format="csv")).body.splitlines()[1] == b"true,false,"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"sql": "SELECT ?", "parameters": [2**64]}, "a parameter is a number that does not fit"),
        ({"sql": "SELECT ?", "parameters": ["\ud800"]}, "half a character"),
        ({"sql": "SELECT '\udcff'"}, "half a character"),
    ],
)
async def test_what_cannot_be_told_to_a_process_is_the_callers_to_mend(asked, query, said):
    with pytest.raises(InvalidQuery, match=said):
        await asked.answer(**query)


async def test_parameters_are_bound_and_never_become_sql(asked):
    assert await asked.rows("SELECT ?, $2", parameters=["'; DROP TABLE x", None]) == [["'; DROP TABLE x", None]]
    found = await asked.value("SELECT count(*) FROM orders WHERE city = $city", parameters={"city": "city-1"})
    assert found == 24


async def test_describe_summarize_and_explain_are_answered(asked):
    described = await asked.rows("DESCRIBE orders")
    assert [row[:2] for row in described][-1] == ["late", "DOUBLE"]
    assert len(await asked.rows("SUMMARIZE items")) == 3
    for sql in ("EXPLAIN SELECT * FROM orders", "-- how?\nEXPLAIN /* it */ SELECT * FROM orders -- all"):
        assert "ICEBERG_SCAN" in (await asked.rows(sql))[0][1]


async def test_files_of_other_days_are_not_opened(asked):
    of_one_day = "city = 'city-2' AND _ts >= '2026-01-03' AND _ts < '2026-01-04'"
    ((_, plan),) = await asked.rows(f"EXPLAIN ANALYZE SELECT sum(_seq) FROM orders WHERE {of_one_day}")
    words = " ".join(plan.replace("│", " ").split())
    assert "Total Files Read: 1" in words
    ((_, plan),) = await asked.rows("EXPLAIN ANALYZE SELECT sum(_seq) FROM orders")
    assert "Total Files Read: 5" in " ".join(plan.replace("│", " ").split())


@pytest.mark.parametrize("form", ["json", "csv", "arrow"])
async def test_a_billion_rows_are_cut_at_the_limit_and_it_is_said(asked, form):
    answer = await asked.answer("SELECT * FROM range(1000000000)", rows_max=1234, format=form)
    assert (answer.rows, answer.cut_at) == (1234, "rows")
    found = {
        "json": lambda body: [row[0] for row in orjson.loads(body)],
        "csv": lambda body: [int(row[0]) for row in list(csv.reader(io.StringIO(body.decode())))[1:]],
        "arrow": lambda body: pa.ipc.open_stream(body).read_all()["range"].to_pylist(),
    }[form](answer.body)
    assert found == list(range(1234))


async def test_exactly_as_many_rows_as_allowed_are_a_whole_answer(asked):
    answer = await asked.answer("SELECT * FROM range(1234)", rows_max=1234)
    assert (answer.rows, answer.cut_at) == (1234, "")
    assert (await asked.answer("SELECT 1 WHERE false")).body == b"[]"


async def test_nobody_gets_more_rows_than_the_setting(asked):
    assert (await asked.answer("SELECT * FROM range(20000)", rows_max=20_000)).rows == 10_000


@pytest.mark.parametrize("form", ["json", "csv", "arrow"])
async def test_an_answer_is_cut_where_its_bytes_are_too_many(asked, form):
    answer = await asked.answer("SELECT repeat('x', 1000000) AS x FROM range(100)", format=form)
    assert (answer.rows, answer.cut_at) == (16, "bytes")
    assert len(answer.body) <= 16 * 2**20 + 1024


async def test_an_arrow_stream_has_the_types_of_the_lake(asked):
    answer = await asked.answer("SELECT _ts, _seq, sum(_seq) OVER () AS all FROM orders LIMIT 2", format="arrow")
    table = pa.ipc.open_stream(answer.body).read_all()
    assert table.schema.types == [pa.timestamp("us", tz="UTC"), pa.int64(), pa.decimal128(38, 0)]


async def test_csv_has_a_head_and_quotes_what_needs_it(asked):
    answer = await asked.answer("SELECT 'a,\"b\"' AS x, NULL AS y, [1, 2] AS z", format="csv")
    assert answer.body == b'x,y,z\n"a,""b""",,"[1,2]"\n'


async def test_an_unknown_format_is_refused(asked):
    with pytest.raises(InvalidQuery, match="'xml', wanted json, csv, arrow"):
        await asked.answer("SELECT 1", format="xml")


async def running(asked, query_id):
    while query_id not in asked.engine._running:
        await asyncio.sleep(0)
    while not asked.engine._forks.is_running:
        await asyncio.sleep(0.01)


async def test_a_query_is_cancelled_by_its_id(asked):
    task = asyncio.create_task(asked.answer(ENDLESS, query_id="mine"))
    await running(asked, "mine")
    assert asked.engine.cancel("mine")
    with pytest.raises(QueryCancelled):
        await task
    assert not asked.engine.cancel("mine")
    assert await asked.value("SELECT 1") == 1


async def test_a_query_ends_when_its_caller_goes_and_its_process_with_it(asked):
    task = asyncio.create_task(asked.answer(ENDLESS, query_id="mine"))
    await running(asked, "mine")
    server = psutil.Process(asked.engine._forks._process.pid)
    while not server.children():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not asked.engine._running
    while server.children():
        await asyncio.sleep(0.01)
    assert await asked.value("SELECT 1") == 1


async def test_one_id_is_one_query(asked):
    task = asyncio.create_task(asked.answer(ENDLESS, query_id="mine"))
    await running(asked, "mine")
    with pytest.raises(InvalidQuery, match="running already"):
        await asked.answer("SELECT 1", query_id="mine")
    asked.engine.cancel("mine")
    with pytest.raises(QueryCancelled):
        await task


async def test_who_has_too_many_queries_is_sent_away_and_others_wait_their_turn(lake):
    async with asking(lake, query_processes=1, query_per_key_max=2, query_waiting_max=2) as asked:
        mine = [asyncio.create_task(asked.answer(ENDLESS, caller="me", query_id=name)) for name in "ab"]
        await running(asked, "b")
        with pytest.raises(TooManyQueries, match="2 queries with this key"):
            await asked.answer("SELECT 1", caller="me")
        waiting = asyncio.create_task(asked.value("SELECT 7", caller="you", query_id="c"))
        await running(asked, "c")
        with pytest.raises(QueryUnavailable, match="come back later"):
            await asked.answer("SELECT 1", caller="somebody")
        for name in "ab":
            assert asked.engine.cancel(name)
        assert await waiting == 7
        for task in mine:
            with pytest.raises(QueryCancelled):
                await task


async def test_who_waits_too_long_for_a_turn_is_told_to_come_back(lake):
    async with asking(lake, query_processes=1) as asked:
        first = asyncio.create_task(asked.answer(ENDLESS, query_id="first"))
        await running(asked, "first")
        with pytest.raises(QueryUnavailable, match="no turn within 100 ms"):
            await asked.answer("SELECT 1", timeout_ms=100)
        asked.engine.cancel("first")
        with pytest.raises(QueryCancelled):
            await first


async def test_a_fork_server_that_died_is_started_again(lake):
    async with asking(lake) as asked:
        assert await asked.value("SELECT 1") == 1
        asked.engine._forks._process.kill()
        asked.engine._forks._process.wait()
        assert await asked.value("SELECT 2") == 2


async def test_closing_ends_queries_and_processes_and_takes_no_more(lake):
    async with asking(lake) as asked:
        task = asyncio.create_task(asked.answer(ENDLESS, query_id="mine"))
        await running(asked, "mine")
        await asked.engine.close()
        with pytest.raises(QueryCancelled):
            await task
        assert not asked.engine._forks.is_running
        with pytest.raises(QueryUnavailable, match="another one takes over"):
            await asked.answer("SELECT 1")


async def test_when_nobody_asks_nothing_runs(lake):
    async with asking(lake, query_idle_ms=0) as asked:
        assert await asked.value("SELECT 1") == 1
        async with asyncio.timeout(20):
            while asked.engine._forks.is_running:
                await asyncio.sleep(0.01)
        assert await asked.value("SELECT 2") == 2


async def test_when_the_parent_dies_the_fork_server_and_its_queries_end(lake):
    forked = forks.Forks(lake.settings, {})
    with await forked.fork() as query:
        query.settimeout(20)
        assert query.recv(4)
        forked._control.close()
        assert await asyncio.to_thread(forked._process.wait, 20) == 0
        while query.recv(1000):
            pass


async def test_a_fork_server_that_cannot_start_is_said_to_be_away(lake, monkeypatch):
    monkeypatch.setattr(forks.sys, "executable", "/bin/false")
    async with asking(lake) as asked:
        with pytest.raises(QueryUnavailable, match="does not start"):
            await asked.answer("SELECT 1")


async def test_a_table_whose_files_are_gone_is_no_fault_of_the_query(asked, lake):
    gone = lake.places["lake", "orders"].replace("orders", "nothing")
    lake.places["lake", "gone"] = gone
    with pytest.raises(QueryUnavailable, match="could not be read"):
        await asked.answer("SELECT * FROM gone")


async def test_temporary_files_go_with_the_query(asked, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(QueryTimeout):
        await asked.answer(ENDLESS, timeout_ms=300)
    assert list(tmp_path.iterdir()) == []
