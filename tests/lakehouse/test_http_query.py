"""POST /query: the rows, the errors with their codes, and who may ask for which namespace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading

import pyarrow as pa
import pytest
from django.db import OperationalError

from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.errors import QueryCancelled, QueryUnavailable
from lakehouse.http import named_queries, queries
from lakehouse.http.named_queries import NamedQueries
from lakehouse.models import NamedQuery
from lakehouse.parent import access
from lakehouse.query import named
from tests.builders import NOW_MS
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.query_site import Lake, asking, day, hang_up
from tests.lakehouse.test_intake import in_thread
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)

ENDLESS = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5"


async def test_a_page_of_another_site_may_ask_where_a_key_is_wanted():
    async with home(open=False):
        asked = await ask("OPTIONS", "/query")
        assert (asked.status, asked.headers["access-control-allow-methods"]) == (200, "POST, OPTIONS")
        token = await in_thread(key)
        for one in (token, "evodb_wrong"):
            heard = await ask("POST", "/query", {"sql": "SELECT 1"}, token=one, headers={"x-correlation-id": "mine"})
            assert (heard.headers["access-control-allow-origin"], heard.headers["x-correlation-id"]) == ("*", "mine")
    async with home():
        assert (await ask("OPTIONS", "/query")).status == 405
        heard = await ask("POST", "/query", {"sql": "SELECT 1"})
        assert heard.status == 200
        assert "access-control-allow-origin" not in heard.headers


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "AUTH_REQUIRED"),
        ({"authorization": "Basic x"}, "INVALID_AUTH_FORMAT"),
        ({"authorization": "Bearer evodb_wrong"}, "INVALID_API_KEY"),
    ],
)
async def test_who_shows_no_good_key_hears_which_kind_of_bad_it_is(headers, code):
    async with home(open=False):
        heard = await ask("POST", "/query", {"sql": "SELECT 1"}, headers=headers)
        assert (heard.status, heard.json["code"]) == (401, code)


@pytest.fixture
def lake(tmp_path):
    found = Lake(Settings(data_dir=tmp_path))
    found.commit("lake", "orders", day(0))
    found.commit("eu", "orders", day(1).slice(0, 5))
    return found


def key(**bindings):
    return access.new_key("reader", **{"scopes": ["query"], "now_ms": NOW_MS} | bindings)[1]


async def test_a_query_is_answered_with_columns_and_rows(lake):
    async with home(data_dir=lake.settings.data_dir):
        sql = "SELECT _ts, sum(_seq) AS total FROM orders WHERE _seq < $1 GROUP BY ALL ORDER BY _ts"
        heard = await ask("POST", "/query", {"sql": sql, "parameters": [2], "limit": 1})
        assert heard.status == 200
        found = heard.json
        assert found.pop("executionTimeMs") >= 0
        assert found == {
            "columns": [{"name": "_ts", "type": "TIMESTAMP WITH TIME ZONE"}, {"name": "total", "type": "HUGEINT"}],
            "rows": [["2026-01-01T00:00:00Z", 0]],
            "rowCount": 1,
            "truncated": True,
            "truncatedBy": "rows",
        }
        accept = {"accept": "application/vnd.apache.arrow.stream"}
        heard = await ask("POST", "/query", {"sql": "FROM orders"}, headers=accept)
        assert (heard.headers["content-type"], heard.headers["x-row-count"]) == (queries.ARROW_TYPE, "24")
        assert pa.ipc.open_stream(heard.body).read_all().num_rows == 24
        heard = await ask("POST", "/query", {"sql": "FROM range(3)", "format": "csv", "limit": 2})
        assert (heard.body, heard.headers["x-truncated"]) == (b"range\n0\n1\n", "rows")


REFUSED = [
    (b"{", 400, "INVALID_QUERY", "the body cannot be used"),
    (b"", 400, "INVALID_QUERY", "the body cannot be used"),
    ({}, 400, "INVALID_QUERY", "sql"),
    ({"sql": 1}, 400, "INVALID_QUERY", "sql"),
    ({"sql": "SELECT 1", "limits": 1}, 400, "INVALID_QUERY", "limits"),
    ({"sql": "SELECT 1", "limit": 0}, 400, "INVALID_QUERY", "wanted 1 to 10000"),
    ({"sql": "SELECT 1", "limit": 10_001}, 400, "INVALID_QUERY", "wanted 1 to 10000"),
    ({"sql": "SELECT 1", "queryId": "a b"}, 400, "INVALID_QUERY", "queryId"),
    ({"sql": "SELECT 1", "timeoutMs": 0}, 400, "INVALID_QUERY", "timeoutMs"),
    ({"sql": "SELECT 1", "format": "xml"}, 400, "INVALID_QUERY", "'xml', wanted json, csv, arrow"),
    ({"sql": "SELECT 1", "parameters": [[1]]}, 400, "INVALID_QUERY", "parameters"),
    ({"sql": " " * 600_000}, 413, "PAYLOAD_TOO_LARGE", "more than 524288 bytes"),
    ({"sql": " " * 200_000}, 400, "INVALID_QUERY", "at most 100000"),
    ({"sql": "SELEC 1"}, 400, "INVALID_QUERY", "syntax error"),
    ({"sql": "SELECT * FROM ordrs"}, 400, "INVALID_QUERY", "in lake there is orders"),
    ({"sql": "DROP TABLE orders"}, 403, "FORBIDDEN", "found DROP, wanted one SELECT"),
    ({"sql": "FROM read_csv('/etc/passwd')"}, 403, "FORBIDDEN", "read_csv is not allowed"),
    ({"sql": ENDLESS, "timeoutMs": 300}, 422, "QUERY_TIMEOUT", "longer than 300 ms"),
]


async def test_what_cannot_be_answered_has_a_code_and_says_why(lake):
    async with home(data_dir=lake.settings.data_dir):
        for body, status, code, said in REFUSED:
            heard = await ask("POST", "/query", body)
            assert (heard.status, heard.json["code"]) == (status, code), body
            assert said in heard.json["error"], body


async def test_a_key_of_one_namespace_asks_its_tables_and_no_other(lake):
    async with home(open=False, data_dir=lake.settings.data_dir):
        of_eu = await in_thread(lambda: key(namespaces="eu"))

        async def rows(sql, token, **body):
            return await ask("POST", "/query", {"sql": sql, **body}, token=token)

        assert (await rows("SELECT count(*) FROM orders", of_eu)).json["rows"] == [[5]]
        assert (await rows("SELECT count(*) FROM eu.orders", of_eu)).json["rows"] == [[5]]
        for sql in ("FROM lake.orders", "FROM nothing.x", "FROM orders JOIN lake.orders o USING (_seq)"):
            heard = await rows(sql, of_eu)
            assert (heard.status, heard.json["code"]) == (403, "FORBIDDEN")
        assert (await rows("FROM orders", of_eu, namespace="lake")).status == 403
        of_all = await in_thread(lambda: key(namespaces=["lake", "e*"]))
        sql = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM eu.orders)"
        assert (await rows(sql, of_all)).json["rows"] == [[24, 5]]


async def test_without_the_scope_query_nothing_is_asked(lake):
    async with home(open=False, data_dir=lake.settings.data_dir):
        assert (await ask("POST", "/query", {"sql": "SELECT 1"})).status == 401
        writer = await in_thread(lambda: key(scopes=["ingest"]))
        assert (await ask("POST", "/query", {"sql": "SELECT 1"}, token=writer)).status == 403


async def test_too_many_queries_of_one_key_are_429_with_a_time_to_come_back(lake):
    async with home(data_dir=lake.settings.data_dir, query_per_key_max=1) as (house, _):
        first = asyncio.create_task(ask("POST", "/query", {"sql": ENDLESS, "timeoutMs": 2000}))
        engine = queries.engine_of(house)
        while not engine._running:
            await asyncio.sleep(0.01)
        heard = await ask("POST", "/query", {"sql": "SELECT 1"})
        assert (heard.status, heard.json["code"], heard.headers["retry-after"]) == (429, "TOO_MANY_QUERIES", "1")
        assert (await first).status == 422


async def test_who_hangs_up_ends_his_query(lake):
    async with serving(data_dir=lake.settings.data_dir) as server:
        body = json.dumps({"sql": ENDLESS}).encode()
        head = f"POST /query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        await hang_up(server.listener.getsockname(), head.encode() + body, queries.engine_of(server.house))


async def test_a_query_is_cancelled_by_its_id_and_by_its_key_only(lake):
    async with home(open=False, data_dir=lake.settings.data_dir, query_processes=1) as (house, _):
        mine, other = await in_thread(lambda: (key(), key()))
        task = asyncio.create_task(ask("POST", "/query", {"sql": ENDLESS, "queryId": "report-7"}, token=mine))
        engine = queries.engine_of(house)
        while not engine._running:
            await asyncio.sleep(0.01)
        for token, name, status in ((other, "report-7", 404), (mine, "report-8", 404), (mine, "report-7", 200)):
            heard = await ask("DELETE", f"/query/{name}", token=token)
            assert heard.status == status
            assert heard.json.get("code") == ("NO_SUCH_QUERY" if status == 404 else None)
        heard = await task
        assert (heard.status, heard.json["code"]) == (409, "QUERY_CANCELLED")
        assert (await ask("DELETE", "/query/report-7", token=mine)).status == 404
        assert (await ask("DELETE", "/query/report-7")).status == 401
        assert (await ask("POST", "/query", {"sql": "SELECT 1", "queryId": "report-7"}, token=mine)).status == 200


async def test_two_keys_may_choose_one_id(lake):
    async with home(open=False, data_dir=lake.settings.data_dir) as (house, _):
        keys = await in_thread(lambda: (key(), key()))
        asked = {"sql": ENDLESS, "queryId": "report", "timeoutMs": 5000}
        tasks = [asyncio.create_task(ask("POST", "/query", asked, token=one)) for one in keys]
        engine = queries.engine_of(house)
        while len(engine._running) < 2:
            await asyncio.sleep(0.01)
        heard = await ask("POST", "/query", asked, token=keys[0])
        assert (heard.status, heard.json["code"]) == (400, "INVALID_QUERY")
        for one in keys:
            assert (await ask("DELETE", "/query/report", token=one)).status == 200
        assert {(await task).status for task in tasks} == {409}


async def test_a_query_that_took_too_long_leaves_its_turn_to_the_next(lake):
    async with home(data_dir=lake.settings.data_dir, query_processes=1) as (house, _):
        waiting = asyncio.create_task(ask("POST", "/query", {"sql": ENDLESS, "timeoutMs": 300}))
        while not queries.engine_of(house)._running:
            await asyncio.sleep(0.01)
        heard = await ask("POST", "/query", {"sql": "SELECT count(*) FROM orders"})
        assert (heard.status, heard.json["rows"]) == (200, [[24]])
        assert (await waiting).json["code"] == "QUERY_TIMEOUT"


async def test_a_process_that_stops_ends_its_queries(lake):
    async with home(data_dir=lake.settings.data_dir) as (house, _):
        task = asyncio.create_task(ask("POST", "/query", {"sql": ENDLESS}))
        engine = queries.engine_of(house)
        while not engine._running:
            await asyncio.sleep(0.01)
        await house.close()
        assert (await task).json["code"] == "QUERY_CANCELLED"
        assert (await ask("POST", "/query", {"sql": "SELECT 1"})).status == 503


@contextlib.asynccontextmanager
async def another_process(lake):
    """An engine of its own, which shares nothing with the house but the database."""
    async with asking(lake) as asked:
        yield asked, NamedQueries(asked.engine, timeout_ms=30_000)


async def run_there(asked, known, name):
    async with known.known(name):
        await asked.answer(ENDLESS, query_id=name)


async def until_it_runs(asked):
    while not asked.engine._running:
        await asyncio.sleep(0.01)


async def test_a_query_is_cancelled_by_whichever_process_is_asked(lake):
    async with home(open=False, data_dir=lake.settings.data_dir), another_process(lake) as (asked, known):
        mine, other = await in_thread(lambda: (key(), key()))
        name = f"report-7 of key {(await in_thread(lambda: access.find(mine, now_ms=NOW_MS))).pk}"
        there = asyncio.create_task(run_there(asked, known, name))
        await until_it_runs(asked)
        assert (await ask("DELETE", "/query/report-7", token=other)).status == 404
        heard = await ask("POST", "/query", {"sql": "SELECT 1", "queryId": "report-7"}, token=mine)
        assert (heard.status, heard.json["code"]) == (400, "INVALID_QUERY")
        assert (await ask("DELETE", "/query/report-7", token=mine)).json == {"cancelled": True}
        with pytest.raises(QueryCancelled):
            await there
        assert (await ask("DELETE", "/query/report-7", token=mine)).status == 404
        assert (await ask("POST", "/query", {"sql": "SELECT 1", "queryId": "report-7"}, token=mine)).status == 200
        assert not await in_thread(NamedQuery.objects.exists)


async def test_who_cancels_a_query_of_a_process_that_died_hears_so_and_its_id_is_free_again(lake, monkeypatch):
    monkeypatch.setattr(named_queries, "GONE_WITHIN_S", 0.2)
    async with another_process(lake) as (_, known):
        await in_thread(lambda: NamedQuery.objects.create(name="left", until_ms=now_ms() + 20_000))
        with pytest.raises(QueryUnavailable, match="is dead, or too busy"):
            await known.cancel("left")
        await in_thread(lambda: NamedQuery.objects.update(until_ms=now_ms() - 1))
        assert not await known.cancel("left")
        async with known.known("left"):
            assert await in_thread(NamedQuery.objects.count) == 1
        assert not await in_thread(NamedQuery.objects.exists)


async def test_a_database_that_is_away_for_a_moment_costs_no_running_query(lake, monkeypatch):
    monkeypatch.setattr(named_queries, "EVERY_S", 0.01)
    usual, failed = named.cancelled, []

    def away(rows):
        if len(failed) < 3:
            failed.append(rows)
            raise OperationalError("away")
        return usual(rows)

    monkeypatch.setattr(named, "cancelled", away)
    async with another_process(lake) as (asked, known), another_process(lake) as (_, other):
        there = asyncio.create_task(run_there(asked, known, "mine"))
        await until_it_runs(asked)
        while len(failed) < 3:
            await asyncio.sleep(0.01)
        assert await other.cancel("mine")
        with pytest.raises(QueryCancelled):
            await there


async def test_while_no_query_has_an_id_nobody_asks_the_database(lake):
    async with another_process(lake) as (_, known):
        assert known._watch is None
        async with known.known("mine"), known.known("too"):
            assert known._watch is not None
        assert known._watch is None


async def test_who_hangs_up_while_his_query_gets_its_row_leaves_none(lake, monkeypatch):
    usual, begun = named.begin, threading.Event()

    def slow(*args, **kwargs):
        pk = usual(*args, **kwargs)
        begun.set()
        gone.wait(20)
        return pk

    gone = threading.Event()
    monkeypatch.setattr(named, "begin", slow)
    async with another_process(lake) as (asked, known):
        there = asyncio.create_task(run_there(asked, known, "mine"))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        there.cancel()
        gone.set()
        with pytest.raises(asyncio.CancelledError):
            await there
        assert not await in_thread(NamedQuery.objects.exists)
