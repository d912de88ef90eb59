"""GET /documents: what a document is or was, by the changes that were told of it, in the journal or in the table."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request

import pytest

from lakehouse.clock import now_ms
from lakehouse.events import changes
from lakehouse.events.event import shown
from lakehouse.events.refusals import EventsRefused
from lakehouse.events.wanted import Found
from tests.lakehouse.events_site import event, ingest, key_of
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_events_reading import flush, lake
from tests.lakehouse.test_http_api import fetch
from tests.server import serving

__all__ = ["lake"]
pytestmark = pytest.mark.django_db(transaction=True)

AT_MS = now_ms() - 100_000
ADA = "/documents/users/user-1"


def change(op, number, doc=None, *, source="shop-1", doc_id="user-1"):
    """The `number`th change of a source, a second after the one before."""
    members = {"type": f"collection.{op}", "ts": shown(AT_MS + 1000 * number), "do": {"id": source}, "docId": doc_id}
    found = event(1, **members, bookmark=f"{number:020}")
    return {name: value for name, value in found.items() if name != "doc"} | ({} if doc is None else {"doc": doc})


STORY = [
    change("insert", 1, {"name": "Ada"}),
    change("insert", 2, {"name": "Bob"}, doc_id="user-2"),
    change("update", 3, {}),
    change("delete", 4),
    change("insert", 5, {"name": "Ada II"}),
]


async def state(query="", path=ADA, **options):
    heard = await ask("GET", path + query, **options)
    assert heard.status == 200, heard.body
    return heard.json["document"], heard.json["deleted"]


async def history(query, **options):
    heard = await ask("GET", query, **options)
    assert heard.status == 200, heard.body
    return [one["bookmark"][-1] for one in heard.json["changes"]], heard.json["links"]


@pytest.mark.parametrize("flushed", [0, 3, 5])
async def test_a_document_is_seen_as_it_is_and_was_wherever_its_changes_lie(lake, flushed):
    async with home(data_dir=lake.data_dir):
        if flushed:
            await ingest({"events": STORY[:flushed][::-1]})
            await flush(lake)
        if STORY[flushed:]:
            await ingest({"events": STORY[flushed:][::-1]})
        heard = await ask("GET", ADA)
        assert heard.json.pop("eventId")
        assert {name: value for name, value in heard.json.items() if name != "eventId"} == {
            "namespace": "default",
            "collection": "users",
            "docId": "user-1",
            "source": "shop-1",
            "document": {"name": "Ada II"},
            "deleted": False,
            "type": "collection.insert",
            "ts": STORY[4]["ts"],
            "bookmark": f"{5:020}",
        }
        assert await state(f"?asOf={shown(AT_MS + 4500)}") == (None, True)
        assert await state(f"?asOf={AT_MS + 3000}") == ({}, False)
        assert await state(f"?bookmark={2:020}&source=shop-1") == ({"name": "Ada"}, False)
        heard = await ask("GET", f"{ADA}?asOf={AT_MS}")
        assert (heard.status, heard.json["code"]) == (404, "NOT_FOUND")
        first, links = await history(f"{ADA}/history?limit=2&source=shop-1")
        then, last = await history(links["next"])
        assert (first, then, set(last)) == (["5", "4"], ["3", "1"], {"self", "first"})
        assert (await history(f"{ADA}/history?limit=4"))[0] == ["5", "4", "3", "1"]
        assert (await history(f"{ADA}/history?bookmark={3:020}"))[0] == ["3", "1"]


async def test_changes_of_one_millisecond_come_in_the_order_of_their_bookmarks(lake):
    async with home(data_dir=lake.data_dir):
        ts = shown(AT_MS)
        some = [change("update", number, {"n": number}) | {"ts": ts, "id": f"e-{9 - number}"} for number in range(1, 7)]
        await ingest({"events": some[:3]})
        await flush(lake)
        await ingest({"events": some[3:]})
        assert await state() == ({"n": 6}, False)
        for query in ("?limit=1", "?limit=1&source=shop-1"):
            seen, link = [], f"{ADA}/history{query}"
            while link:
                found, links = await history(link)
                seen, link = seen + found, links.get("next")
            assert seen == list("654321")


async def test_a_cursor_in_the_question_what_a_document_is_hides_nothing_of_it(lake):
    async with home(data_dir=lake.data_dir):
        await ingest({"events": STORY[:1]})
        await flush(lake)
        await ingest({"events": [change("update", 6, {"name": "Eve"})]})
        _, links = await history(f"{ADA}/history?limit=1")
        cursor = links["next"].partition("?")[2]
        assert "cursor=" in cursor
        assert await state(f"?{cursor}") == ({"name": "Eve"}, False)


async def test_a_document_as_deep_as_one_may_be_is_shown(lake):
    async with home(data_dir=lake.data_dir):
        depth, step = 0, 1024
        while step := step // 2:
            depth += step if await is_taken(depth + step) else 0
        for _ in range(2):
            for path in (f"/documents/users/deep-{depth}", f"/documents/users/deep-{depth}/history"):
                heard = await ask("GET", path)
                assert (heard.status, b"[" * depth in heard.body) == (200, True), depth
            await flush(lake)


async def is_taken(depth):
    body = json.dumps({"events": [change("insert", 1, "DEEP", doc_id=f"deep-{depth}")]})
    body = body.replace('"DEEP"', "[" * depth + "]" * depth)
    return (await ask("POST", "/ingest", body.encode())).status == 200


class Counted(Found):
    """How many of them are in memory."""

    here = most = 0

    def __init__(self, *values):
        super().__init__(*values)
        Counted.here += 1
        Counted.most = max(Counted.most, Counted.here)

    def __del__(self):
        Counted.here -= 1


def test_of_many_changes_of_a_document_a_page_keeps_few_in_memory():
    def told():
        for number in range(3000):
            moment_ms = number * 7919 % 2000
            members = {"type": "collection.update", "do": {"id": f"shop-{number % 100}"}, "doc": moment_ms}
            yield Counted(moment_ms, f"e{moment_ms}", json.dumps(members).encode())

    asked = changes.Asked("users", "user-1", limit=10)
    shown, cursor = changes.page(asked, changes.foremost(asked, told()))
    assert [change.found.moment_ms for change in shown] == [*range(1999, 1989, -1)]
    assert cursor is not None
    assert len(changes.last_ones(told())) == changes.SOURCES_SAID_MAX + 1
    assert 10 < Counted.most < 50


def test_a_change_that_is_deeper_than_anybody_can_read_is_named_and_no_error_of_ours():
    asked = changes.Asked("users", "user-1")
    deep = Found(1, "e-deep", b'{"collection":"users","docId":"user-1","doc":' + b"[" * 5000 + b"]" * 5000 + b"}")
    assert not asked.fits(deep.moment_ms, deep.id, deep.body)
    with pytest.raises(EventsRefused, match="change e-deep of this document is nested too deep"):
        changes.newest(asked, [deep])
    with pytest.raises(EventsRefused, match="nested too deep"):
        changes.page(asked, [deep])


async def test_a_document_that_two_sources_have_wants_one_of_them_named():
    async with home():
        await ingest({"events": [*STORY, change("insert", 9, {"of": "shop-2"}, source="shop-2")]})
        heard = await ask("GET", ADA)
        assert (heard.status, heard.json["details"]) == (400, {"sources": ["shop-1", "shop-2"]})
        assert await state("?source=shop-2") == ({"of": "shop-2"}, False)
        assert (await history(f"{ADA}/history"))[0][0] == "9"


async def test_a_name_with_a_slash_and_one_called_history_are_names():
    async with serving() as server:
        url = server.url.replace("ws://", "http://").removesuffix("/ws")

        async def get(path):
            request = urllib.request.Request(f"{url}/documents/users/{path}")
            return json.loads((await asyncio.to_thread(fetch, request))[2])

        names = ["a/b", "history", "a/history", "ä ?"]
        await ingest({"events": [change("insert", n, {"n": n}, doc_id=name) for n, name in enumerate(names, 1)]})
        for number, path in enumerate(["a%2Fb", "history", "a%2Fhistory", "%C3%A4%20%3F"], 1):
            assert (await get(path))["document"] == {"n": number}, path
            found = await get(f"{path}/history")
            assert [one["doc"] for one in found["changes"]] == [{"n": number}], path
            assert found["links"]["self"] == f"/documents/users/{path}/history"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            await get("a/b")


async def test_a_tenant_sees_its_own_documents_and_no_others():
    async with home(open=False):
        acme, globex = await key_of("acme"), await key_of("globex")
        await ingest({"events": STORY}, token=acme)
        assert await state(token=acme) == ({"name": "Ada II"}, False)
        for path in (ADA, f"{ADA}/history"):
            heard = await ask("GET", f"{path}?namespace=acme", token=globex)
            assert (heard.status, heard.json["code"]) == (403, "FORBIDDEN")
            assert (await ask("GET", path, token=await key_of("acme", "ingest"))).status == 403
            assert (await ask("GET", path)).json["code"] == "AUTH_REQUIRED"
            heard = await ask("OPTIONS", path)
            assert (heard.status, heard.headers["access-control-allow-origin"]) == (200, "*")
        assert (await ask("GET", ADA, token=globex)).status == 404
        assert (await history(f"{ADA}/history", token=globex))[0] == []


@pytest.mark.once
@pytest.mark.parametrize(
    "query", ["asOf=x", "asOf=2026-01-31", "limit=0", "cursor=x", "cursor=WzFd", f"source={501 * 'x'}"]
)
async def test_a_word_that_cannot_be_used_is_named(query):
    async with home():
        heard = await ask("GET", f"{ADA}/history?{query}")
        assert (heard.status, heard.json["code"]) == (400, "INVALID_REQUEST")
        assert heard.json["error"].startswith(query.partition("=")[0])


@pytest.mark.once
@pytest.mark.parametrize("path", [ADA, f"{ADA}/history"])
async def test_a_misspelt_as_of_is_refused_and_not_answered_with_what_is_now(path):
    async with home():
        await ingest({"events": STORY})
        heard = await ask("GET", f"{path}?asof=2020-01-31T12:00:00Z")
        assert (heard.status, heard.json["code"]) == (400, "INVALID_REQUEST")
        assert heard.json["error"].startswith("asof: is not known here, wanted some of ")
        assert "asOf" in heard.json["error"]


async def test_a_document_a_thousand_levels_deep_is_shown():
    deep = b"[" * 900 + b"]" * 900
    async with home():
        body = b'{"events":[{"type":"collection.insert","ts":"%b","collection":"users","docId":"user-1","doc":%b}]}'
        assert (await ingest(body % (shown(AT_MS).encode(), deep))).status == 200
        heard = await ask("GET", ADA)
        assert (heard.status, deep in heard.body) == (200, True)
