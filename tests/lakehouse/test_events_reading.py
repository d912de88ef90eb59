"""What reads events: in the journal or in the table they are seen once, newest first, and never another tenant's."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from pathlib import Path

import pytest

from lakehouse.catalog.lakes import chosen
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.events import reading
from lakehouse.events.event import shown
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.limits.refusal import Response
from lakehouse.models import Batch, Parent
from tests.lakehouse.events_site import admin_key, event, events, ingest, key_of
from tests.lakehouse.http_site import ask, home, scope_of
from tests.lakehouse.test_intake import in_thread
from tests.server import serving

DOCS = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
pytestmark = pytest.mark.django_db(transaction=True)


async def flush(settings):
    def work():
        flusher = Flusher("worker", settings, chosen(settings), now_ms)
        return [flusher.run(pk, trigger=FlushTrigger.MANUAL) for pk in Parent.objects.values_list("pk", flat=True)]

    return await in_thread(work)


@pytest.fixture
def lake(tmp_path):
    return Settings(data_dir=tmp_path)


async def read(path="/events", **options):
    heard = await ask("GET", path, **options)
    assert heard.status == 200, heard.body
    return heard.json


def docs(page):
    return [one["docId"] for one in page["events"]]


async def test_what_was_acknowledged_is_seen_before_and_after_the_flush_once(lake):
    third, second, first = (shown(now_ms() - 1000 * age_s) for age_s in (1, 2, 3))
    async with home(data_dir=lake.data_dir):
        assert await read() == {
            "namespace": "default",
            "events": [],
            "count": 0,
            "links": {"self": "/events", "first": "/events"},
        }
        await ingest({"events": [event(1, ts=first), event(3, ts=third)]})
        before = await read()
        await flush(lake)
        assert await read() == before
        await ingest({"events": [event(2, ts=second)]})
        page = await read()
        assert docs(page) == ["user-3", "user-2", "user-1"]
        assert page["events"][0]["doc"] == {"name": "Ada", "number": 3}
        assert docs(await read("/recent?limit=2")) == ["user-3", "user-2"]


async def test_pages_skip_and_repeat_nothing_however_many_events_have_the_same_time(lake):
    moment = shown(now_ms())
    async with home(data_dir=lake.data_dir):
        await ingest({"events": [event(number, ts=moment) for number in range(5)]})
        await flush(lake)
        await ingest({"events": [event(number, ts=moment) for number in range(5, 8)]})
        page, seen, steps = await read("/events?limit=3&type=collection.*"), [], []
        while True:
            seen.append(docs(page))
            if "next" not in page["links"]:
                break
            steps.append(page["links"])
            page = await read(page["links"]["next"])
        assert [len(one) for one in seen] == [3, 3, 2]
        assert len({one for some in seen for one in some}) == 8
        back = await read(page["links"]["prev"])
        assert docs(back) == seen[1]
        first = await read(back["links"]["prev"])
        assert docs(first) == seen[0]
        assert "prev" not in first["links"]
        assert docs(await read(first["links"]["next"])) == seen[1]


FILTERS = [
    ("type=custom.a", ["a"]),
    ("type=custom.*", ["b", "a"]),
    ("provider=github", ["hook"]),
    ("type=*&provider=github", ["hook"]),
    ("type=custom.*&provider=github", []),
    ("type=webhook.*&provider=stripe", []),
    ("source=shop-2", ["b"]),
    ("source=pos", ["a"]),
    ("type=nothing", []),
    ("type=%27%20OR%201%3D1%20--", []),
    ("source=%27%20OR%201%3D1%20--", []),
]


async def test_events_are_found_by_type_provider_source_and_time(lake):
    at = now_ms() - 10_000
    some = [
        {"type": "custom.a", "ts": shown(at), "do": {"id": "shop-1"}, "source": "pos", "docId": "a"},
        {"type": "custom.b", "ts": shown(at + 1000), "do": {"id": "shop-2"}, "docId": "b"},
        {"type": "webhook.github.push", "ts": shown(at + 2000), "docId": "hook"},
    ]
    times = [
        (f"from={at + 1000}", ["hook", "b"]),
        (f"after={shown(at + 1000)}", ["hook"]),
        (f"to={at + 1000}", ["b", "a"]),
        (f"before={shown(at + 1000)}", ["a"]),
        (f"from={at}&before={at + 2000}&type=custom.b", ["b"]),
    ]
    async with home(data_dir=lake.data_dir):
        await ingest({"events": some})
        for _ in range(2):
            for query, found in [*FILTERS, *times]:
                assert docs(await read(f"/events?{query}")) == found, query
            await flush(lake)


async def test_a_tenant_reads_its_own_events_and_no_others(lake):
    async with home(open=False, data_dir=lake.data_dir):
        keys = {name: await key_of(name) for name in ("acme", "globex")}
        for name, token in keys.items():
            await ingest({"events": [event(1, docId=name)]}, token=token)
        for _ in range(2):
            for name, token in keys.items():
                assert docs(await read(token=token)) == [name]
                assert docs(await read("/recent", token=token)) == [name]
                other = "globex" if name == "acme" else "acme"
                for path in ("/events", "/recent", "/events/stream"):
                    heard = await ask("GET", f"{path}?namespace={other}", token=token)
                    assert (heard.status, heard.json["code"]) == (403, "FORBIDDEN")
                theirs = {"sql": f"SELECT docId FROM {other}.events"}
                assert (await ask("POST", "/query", theirs, token=token)).status == 403
                theirs = {"collection": "users", "namespace": other}
                assert (await ask("POST", "/query", theirs, token=token)).status == 403
            await flush(lake)
        for name, token in keys.items():
            heard = await ask("POST", "/query", {"collection": "users"}, token=token)
            place = [one["name"] for one in heard.json["columns"]].index("docId")
            assert [row[place] for row in heard.json["rows"]] == [name]
            sql = "SELECT docId FROM read_json_auto('r2://events/**/*.jsonl')"
            assert (await ask("POST", "/query", {"sql": sql}, token=token)).json["rows"] == [[name]]
        page = await read("/events?namespace=globex", token=await admin_key())
        assert docs(page) == ["globex"]


BAD = ["limit=0", "limit=1001", "limit=x", "before=yesterday", "cursor=x", "cursor=!!", "type=" + "x" * 501]


@pytest.mark.parametrize("query", BAD)
async def test_a_parameter_that_cannot_be_used_is_named(query):
    async with home():
        heard = await ask("GET", f"/events?{query}")
        assert (heard.status, heard.json["code"]) == (400, "INVALID_REQUEST")
        assert heard.json["error"].startswith(query.partition("=")[0])


@pytest.mark.parametrize("path", ["/events", "/recent", "/events/stream"])
async def test_a_misspelt_filter_is_refused_and_not_answered_with_all_events(path):
    async with home():
        heard = await ask("GET", f"{path}?typ=custom.*")
        assert (heard.status, heard.json["code"]) == (400, "INVALID_REQUEST")
        assert heard.json["error"].startswith("typ: is not known here, wanted some of type, ")


async def test_nobody_reads_without_a_key_of_that_scope():
    async with home(open=False):
        assert (await ask("GET", "/events")).json["code"] == "AUTH_REQUIRED"
        heard = await ask("GET", "/events", token=await key_of("acme", "ingest"))
        assert (heard.status, heard.json["code"]) == (403, "FORBIDDEN")
        heard = await ask("POST", "/events", b"")
        assert (heard.status, heard.headers["allow"]) == (405, "GET")


async def test_a_page_of_another_site_may_follow_the_stream_with_its_key_in_a_header():
    async with home(open=False):
        heard = await ask("OPTIONS", "/events/stream")
        assert (heard.status, heard.headers["access-control-allow-methods"]) == (200, "GET, OPTIONS")
        assert "Authorization" in heard.headers["access-control-allow-headers"]
        heard = await ask("POST", "/events/stream")
        assert (heard.status, heard.json["code"], heard.headers["allow"]) == (405, "METHOD_NOT_ALLOWED", "GET")


# Queries.

HISTORY = (
    "SELECT ts, type, docId, doc, prev, bookmark FROM read_json_auto('r2://events/{year}/**/*.jsonl') "
    "WHERE collection = 'users' AND docId = 'user-1' ORDER BY ts ASC;"
)
BETWEEN = """SELECT * FROM read_json_auto('r2://events/{year}/**/*.jsonl')
WHERE bookmark > '0016' AND bookmark <= '0018';"""
LATENCIES = """SELECT method, AVG(durationMs), P95(durationMs), COUNT(*)
FROM read_json_auto('r2://events/{year}/{month}/**/*.jsonl')
WHERE type = 'rpc.call'
GROUP BY method;"""


async def test_the_queries_of_events_do_run_as_printed(lake):
    moment = shown(now_ms())
    year, month = moment[:4], moment[5:7]
    async with home(data_dir=lake.data_dir):
        await ingest({"events": [event(1, bookmark="0017")]})
        await flush(lake)

        async def rows(sql):
            heard = await ask("POST", "/query", {"sql": sql.format(year=year, month=month), "namespace": "default"})
            assert heard.status == 200, heard.body
            return heard.json["rows"]

        assert [row[1:3] for row in await rows(HISTORY)] == [["collection.insert", "user-1"]]
        assert len(await rows(BETWEEN)) == 1
        assert await rows(LATENCIES) == []
        calls = [{"type": "rpc.call", "ts": moment, "method": "pay", "durationMs": ms} for ms in (1, 2, 3.5)]
        await ingest({"events": calls})
        await flush(lake)
        ((method, mean, p95, count),) = await rows(LATENCIES)
        assert (method, round(mean, 3), round(p95, 2), count) == ("pay", 2.167, 3.35, 3)
        assert await rows("SELECT count(*) FROM read_json_auto('r2://b/events/1999/**/*.jsonl')") == [[0]]


async def test_a_query_as_printed_means_the_namespace_that_events_without_one_are_in(lake):
    async with home(data_dir=lake.data_dir):
        await ingest({"events": [event(1)]})
        await flush(lake)
        heard = await ask("POST", "/query", {"sql": HISTORY.format(year=shown(now_ms())[:4])})
        assert (heard.status, heard.json["rowCount"]) == (200, 1)


async def test_events_that_wait_for_their_first_flush_leave_a_query_empty_and_not_in_error(lake):
    queries = [{"sql": text.format(year=2024, month="01")} for text in (HISTORY, BETWEEN, LATENCIES)]
    queries += [{"sql": 'SELECT * FROM "default".events'}, {"collection": "users"}]
    async with home(data_dir=lake.data_dir):
        heard = await ask("POST", "/query", queries[0])
        assert (heard.status, heard.json["code"]) == (400, "INVALID_QUERY")
        await ingest({"events": [event(1)]})
        before = [(await ask("POST", "/query", query)).json for query in queries]
        assert [one["rows"] for one in before] == [[]] * 5
        await flush(lake)
        after = [(await ask("POST", "/query", query)).json for query in queries]
        assert [len(one["rows"]) for one in after] == [0, 0, 0, 1, 1]
        for one, another in zip(before, after, strict=True):
            kinds = [{(column["name"], column["type"]) for column in found["columns"]} for found in (one, another)]
            assert kinds[0] == kinds[1]


async def test_a_path_of_the_export_names_its_namespace(lake):
    async with home(data_dir=lake.data_dir, open=False):
        token = await key_of("acme")
        await ingest({"events": [event(1)]}, token=token)
        await flush(lake)
        year = shown(now_ms())[:4]
        for path, found in [
            (f"s3://bucket/acme/events/{year}/**/*.jsonl", [["user-1"]]),
            (f"s3://bucket/a/folder/acme/events/{year}/**", [["user-1"]]),
            ("s3://bucket/acme/events/2024/**/*.jsonl", []),
            ("s3://bucket/2024/01/**/*.jsonl", []),
            ("s3://bucket/**/*.jsonl", [["user-1"]]),
        ]:
            heard = await ask("POST", "/query", {"sql": f"SELECT docId FROM read_json_auto('{path}')"}, token=token)
            assert heard.json["rows"] == found, path
        sql = "SELECT docId FROM read_json_auto('s3://bucket/globex/events/**/*.jsonl')"
        heard = await ask("POST", "/query", {"sql": sql}, token=token)
        assert (heard.status, heard.json["code"]) == (403, "FORBIDDEN")


@pytest.mark.once
@pytest.mark.parametrize(
    "path",
    [
        *("r2://events/../x", "r2://events/2024/13/*.jsonl", "s3://b/events/2024/a/b?c", "r2://x"),
        *("r2://events/2024/0*/*.jsonl", "r2://events/2024/01/05/10/01M80AKEZ6.jsonl", "r2://events/24*/**"),
    ],
)
async def test_a_path_that_is_none_of_events_is_refused(path, lake):
    async with home(data_dir=lake.data_dir):
        heard = await ask("POST", "/query", {"sql": f"SELECT * FROM read_json_auto('{path}')", "namespace": "default"})
        assert heard.status in (400, 403)
        heard = await ask("POST", "/query", {"sql": "SELECT * FROM read_json_auto('/etc/passwd')"})
        assert heard.json["code"] == "FORBIDDEN"


async def test_events_are_asked_for_by_their_members(lake):
    async with home(data_dir=lake.data_dir):
        other = event(2, type="custom.x", do={"id": "shop-2", "class": "Till", "colo": "FRA"}, collection="orders")
        await ingest({"events": [event(1, age_ms=60_000), other]})
        await flush(lake)
        then = shown(now_ms() - 30_000)
        for body, found in [
            ({"doId": "shop-1"}, ["user-1"]),
            ({"doClass": "Till"}, ["user-2"]),
            ({"colo": "AMS"}, ["user-1"]),
            ({"collection": "orders"}, ["user-2"]),
            ({"eventTypes": ["custom.x", "collection.insert"]}, ["user-2", "user-1"]),
            ({"eventTypes": ["custom.*"]}, ["user-2"]),
            ({"eventTypes": ["collection.*", "custom.y"]}, ["user-1"]),
            ({"dateRange": {"start": then}}, ["user-2"]),
            ({"dateRange": {"end": then}}, ["user-1"]),
            ({"doId": "' OR 1=1 --"}, []),
            ({"limit": 1}, ["user-2"]),
        ]:
            heard = await ask("POST", "/query", body)
            place = [one["name"] for one in heard.json["columns"]].index("docId")
            assert [row[place] for row in heard.json["rows"]] == found, body
        for body in ({"limit": 0}, {"limit": 10_001}, {"eventTypes": []}, {"doId": 1}, {"colour": "x"}):
            heard = await ask("POST", "/query", body)
            assert (heard.status, heard.json["code"]) == (400, "INVALID_QUERY"), body


@pytest.mark.parametrize("body", [b"{}", b"{ }", b" {\n}"])
async def test_a_query_that_asks_for_nothing_hears_what_it_may_ask_for(body):
    async with home():
        heard = await ask("POST", "/query", body)
        assert (heard.status, heard.json["code"]) == (400, "INVALID_QUERY")
        assert heard.json["error"].startswith("the body asks for nothing; wanted `sql`, or some of dateRange, doId, ")


async def test_any_state_can_be_asked_for_as_the_docs_say(lake):
    section = DOCS.split("## Time travel")[1].split("\n## ")[0]
    history, between, as_of, at_bookmark = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    at = now_ms() - 10_000
    told = [
        ("insert", "1", {}, 1),
        ("insert", "2", {"a": 1}, 2),
        ("update", "1", {"b": 2}, 3),
        ("delete", "2", None, 4),
        ("insert", "3", {}, 5),
    ]
    some = [
        event(type=f"collection.{op}", ts=shown(at + 1000 * n), docId=doc_id, doc=doc, bookmark=f"{n:020}")
        for op, doc_id, doc, n in told
    ]
    other = event(type="collection.insert", do={"id": "shop-2"}, docId="1", doc={"x": 1}, bookmark=f"{9:020}")
    async with home(data_dir=lake.data_dir):
        await ingest({"events": [other, *reversed(some)]})
        await flush(lake)

        async def rows(sql, **values):
            values = {"source": "shop-1", "collection": "users"} | values
            used = {name: value for name, value in values.items() if f"${name}" in sql}
            body = {"sql": sql, "parameters": used, "namespace": "default"}
            heard = await ask("POST", "/query", body)
            assert heard.status == 200, heard.body
            return heard.json["rows"]

        assert [(row[1], row[2]) for row in await rows(history, docId="1")] == [
            ("collection.insert", "{}"),
            ("collection.update", '{"b": 2}'),
        ]
        assert [row[3] for row in await rows(between, start=f"{1:020}", end=f"{3:020}")] == ["2", "1"]
        now = [["1", '{"b": 2}', f"{3:020}"], ["3", "{}", f"{5:020}"]]
        assert await rows(as_of, at=shown(now_ms())) == now
        assert await rows(at_bookmark, bookmark=f"{9:020}") == now
        then = [["1", "{}", f"{1:020}"], ["2", '{"a": 1}', f"{2:020}"]]
        assert await rows(as_of, at=shown(at + 2500)) == then
        assert await rows(at_bookmark, bookmark=f"{2:020}") == then


# The live tail.


async def lines_of(server, token, query=""):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.listener.getsockname()[1])
    head = f"GET /events/stream?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    writer.write(f"{head}X-Correlation-ID: mine\r\n\r\n".encode())
    answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert answer.startswith("http/1.1 200"), answer
    assert "text/event-stream" in answer
    assert "x-correlation-id: mine\r\n" in answer
    await reader.readuntil(b"retry: 1000\n\n")
    return reader, writer


async def test_a_live_tail_tells_what_comes_in_and_nothing_of_another_tenant():
    async with serving(open=False) as server:
        token, other = await key_of("acme"), await key_of("globex")
        await ingest({"events": events(1)}, token=token)
        reader, writer = await lines_of(server, token, "type=collection.*")
        await ingest({"events": [event(7)]}, token=other)
        await ingest({"events": [event(8, type="custom.x"), event(9)]}, token=token)
        async with asyncio.timeout(20):
            await reader.readuntil(b"data: ")
            assert json.loads(await reader.readline())["docId"] == "user-9"
        writer.close()


async def test_a_tail_that_comes_back_goes_on_where_it_was():
    async with home() as (opened, _):
        await ingest({"events": events(1)})
        tail = await reading.open_stream(scope_of("GET", "/events/stream", {"last-event-id": "0"}), opened)
        assert [await anext(tail), b"user-1" in await anext(tail)] == [b"retry: 1000\n\n", True]
        assert reading.streams_of(opened).count == 1
        await tail.aclose()
        assert reading.streams_of(opened).count == 0


async def test_a_tail_that_comes_back_when_its_place_is_forgotten_hears_that_something_may_be_missing():
    async with home() as (opened, _):
        await ingest({"events": events(1)})
        forgotten = await in_thread(lambda: Batch.objects.latest("pk").pk)
        await in_thread(lambda: Batch.objects.all().delete())
        await ingest({"events": [event(2)]})
        scope = scope_of("GET", "/events/stream", {"last-event-id": str(forgotten)})
        tail = await reading.open_stream(scope, opened)
        await anext(tail)
        assert (await anext(tail)).startswith(b"event: gap\nid: %d\n" % forgotten)
        assert b"user-2" in await anext(tail)
        await tail.aclose()


@pytest.mark.parametrize("query", ["limit=5", "cursor=bjE", "before=1", "typ=a"])
async def test_what_means_nothing_to_a_tail_is_refused_and_not_forgotten(query):
    async with home():
        heard = await ask("GET", f"/events/stream?{query}")
    assert (heard.status, heard.json["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("path", ["/events", "/recent", "/events/stream?x=1", "/documents/a/b", "/schemas"])
async def test_a_page_of_another_site_reads_nothing_in_an_open_house(path):
    """Nobody shows a key there, so any page could read what its visitor may."""
    for method in ("GET", "OPTIONS"):
        for is_open in (True, False):
            async with home(open=is_open):
                heard = await ask(method, path)
            assert ("access-control-allow-origin" in heard.headers) is not is_open
    async with home(open=True):
        assert (await ask("OPTIONS", "/ingest")).headers["access-control-allow-origin"] == "*"


async def test_more_streams_than_a_process_may_have_are_503():
    async with home(events_streams_max=0):
        heard = await ask("GET", "/events/stream")
        assert (heard.status, heard.headers["retry-after"]) == (503, "10")


async def test_streams_opened_at_the_same_moment_are_no_more_than_a_process_may_have():
    async with home(events_streams_max=2) as (opened, _):
        scope = scope_of("GET", "/events/stream")
        found = await asyncio.gather(*(reading.open_stream(scope, opened) for _ in range(5)))
        streams = [one for one in found if not isinstance(one, Response)]
        assert (len(streams), {one.status for one in found if isinstance(one, Response)}) == (2, {503})
        assert reading.streams_of(opened).count == 2
        await anext(streams[0])
        await streams[0].aclose()
        assert reading.streams_of(opened).count == 1


async def test_a_stream_whose_client_hung_up_before_it_was_read_gives_its_place_back():
    async with home(events_streams_max=1) as (opened, _):
        stream = await reading.open_stream(scope_of("GET", "/events/stream"), opened)
        assert reading.streams_of(opened).count == 1
        del stream
        gc.collect()
        assert reading.streams_of(opened).count == 0


async def test_a_batch_that_went_into_its_table_before_the_tail_saw_it_is_said_to_be_missing(lake):
    async with home(data_dir=lake.data_dir) as (opened, _):
        await ingest({"events": events(1)})
        await flush(lake)
        tail = await reading.open_stream(scope_of("GET", "/events/stream", {"last-event-id": "0"}), opened)
        await anext(tail)
        assert (await anext(tail)).startswith(b"event: gap\n")
        await tail.aclose()
