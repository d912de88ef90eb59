"""POST /ingest and /e: the contract's table of errors row by row, exactly once, and tenants that do not meet."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
import urllib.request

import pytest

from lakehouse.events import batch, event, namespaces, openapi
from lakehouse.models import AccessKey, Batch, BatchPayload, Child, EventId, Parent
from lakehouse.parent import access
from rpc import columns
from tests.lakehouse.events_site import admin_key, events, ingest, key_of
from tests.lakehouse.events_site import event as an_event
from tests.lakehouse.http_site import DOORS, ask, home
from tests.lakehouse.test_intake import impatient, in_thread, locked
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)
DAY_MS = 24 * 3600 * 1000


@pytest.fixture(params=sorted(DOORS))
def door(request):
    return request.param


def stored():
    payloads = BatchPayload.objects.order_by("pk").values_list("payload", flat=True)
    return [entry for payload in payloads for entry in columns.decode(bytes(payload)).entries()]


async def rows():
    return [json.loads(entry.after) for entry in await in_thread(stored)]


@pytest.mark.parametrize("path", ["/ingest", "/e"])
async def test_events_are_durable_when_the_answer_comes(door, path):
    async with home():
        heard = await ingest({"events": events(3)}, path, door=door)
        said = {"ok": True, "received": 3, "namespace": "default"}
        assert (heard.status, heard.json) == (200, {"success": True, **said, "data": said})
        assert heard.headers["access-control-allow-origin"] == "*"
        assert len(heard.headers["x-correlation-id"]) == 32
    parent = await in_thread(Parent.objects.get)
    assert (parent.name, parent.namespace, parent.pending_entries) == ("events.default", "default", 3)
    first, *_ = await rows()
    assert first == {"id": first["id"], "ns": "default"} | an_event(1, ts=first["ts"])
    assert [row["docId"] for row in await rows()] == ["user-1", "user-2", "user-3"]
    entry = (await in_thread(stored))[0]
    assert (entry.table, entry.row_id.decode()) == (b"events", first["id"])
    assert event.shown(entry.timestamp_ms) == first["ts"]


async def test_the_namespace_of_a_key_is_that_of_its_events_whatever_they_say(door):
    async with home(open=False):
        token = await key_of("acme")
        heard = await ingest({"events": [an_event(ns="other", namespace="rpc")]}, token=token, door=door)
        assert (heard.status, heard.json["namespace"]) == (200, "acme")
        assert (await ingest({"events": events(1)}, "/ingest?namespace=other", token=token)).json["code"] == "FORBIDDEN"
    (row,) = await rows()
    assert (row["ns"], row["namespace"]) == ("acme", "rpc")
    assert await in_thread(lambda: list(Parent.objects.values_list("name", "namespace"))) == [("events.acme", "acme")]


BAD_EVENTS = [
    ([1], "wanted an object"),
    (["x"], "wanted an object"),
    ([None], "wanted an object"),
    ([{}], ".type: is required"),
    ([an_event(type=1)], ".type: is 1, wanted a string"),
    ([an_event(type="")], ".type: is ''"),
    ([an_event(type="a b")], "wanted 1 to 128 letters"),
    ([an_event(type="a\n")], "wanted 1 to 128 letters"),
    ([an_event(type="../x")], "wanted 1 to 128 letters"),
    ([an_event(type="x" * 129)], "wanted 1 to 128 letters"),
    ([{"type": "custom.x"}], ".ts: is required"),
    ([an_event(ts="yesterday")], "wanted a time such as"),
    ([an_event(ts="2026-01-31")], "wanted a time such as"),
    ([an_event(ts="2026-01-31T12:00:00")], "wanted a time such as"),
    ([an_event(ts="2026-02-30T12:00:00Z")], "wanted a time such as"),
    ([an_event(ts=1700000000000)], "wanted a string"),
    ([an_event(ts="9" * 5000)], "wanted a time such as"),
    ([an_event(age_ms=7 * DAY_MS + 60_000)], "admin may backfill"),
    ([an_event(age_ms=-DAY_MS)], "or earlier"),
    ([an_event(do="shop-1")], ".do: wanted an object"),
    ([an_event(id=7)], ".id: is 7, wanted a string"),
    ([an_event(id="x" * 129)], "wanted 1 to 128 printable"),
    ([an_event(type="cdc", event="users.moved")], "<noun>.created"),
    ([an_event(type="cdc", event="users.created")], ".data: wanted an object"),
    ([an_event(type="cdc", event="users.created", data={"type": "users"})], ".id: is required"),
]


@pytest.mark.parametrize(("bad", "said"), BAD_EVENTS)
async def test_one_bad_event_refuses_the_batch_and_is_named(bad, said):
    async with home():
        heard = await ingest({"events": [an_event(), *bad, an_event()], "batchId": "b"})
        assert (heard.status, heard.json["code"]) == (400, "INVALID_EVENT")
        assert heard.json["details"] == {"indices": [1]}
        assert heard.json["error"].startswith("events[1]")
        assert said in heard.json["error"]
        assert not await in_thread(Batch.objects.exists)
        assert "deduplicated" not in (await ingest({"events": events(1), "batchId": "b"})).json


async def test_at_most_ten_bad_events_are_named():
    async with home():
        heard = await ingest({"events": [{}] * 12})
        assert heard.json["details"]["indices"] == list(range(10))
        assert heard.json["error"].endswith("; and 2 more")


BAD_BODIES = [
    (b"", "INVALID_JSON", "the body is empty"),
    (b"{", "INVALID_JSON", "not JSON"),
    (b"\xff\xfe", "INVALID_JSON", "not JSON"),
    (b"[" * 100_000, "INVALID_JSON", "not JSON"),
    (b'{"events": [' + b'{"a":' * 20_000, "INVALID_JSON", "not JSON"),
    (b"[]", "INVALID_BATCH", "wanted {"),
    (b"null", "INVALID_BATCH", "wanted {"),
    (b"{}", "INVALID_BATCH", "events"),
    (b'{"events": {}}', "INVALID_BATCH", "events"),
    (b'{"events": null}', "INVALID_BATCH", "events"),
    (b'{"events": [], "batchId": 7}', "INVALID_BATCH", "batchId"),
    (json.dumps({"events": [], "batchId": "x" * 256}).encode(), "INVALID_BATCH", "1 to 255"),
    (json.dumps({"events": [], "batchId": "a\nb"}).encode(), "INVALID_BATCH", "printable"),
    (json.dumps({"events": [{}] * 1001}).encode(), "INVALID_BATCH", "has 1001, wanted at most 1000"),
]


@pytest.mark.parametrize(("data", "code", "said"), BAD_BODIES)
async def test_a_body_that_is_no_batch_says_what_it_is(data, code, said):
    async with home():
        heard = await ingest(data)
        assert (heard.status, heard.json["code"]) == (400, code)
        assert said in heard.json["error"]


async def test_an_event_over_10240_bytes_is_refused_and_white_space_does_not_count():
    async with home():
        base = len(json.dumps(an_event(doc={"x": ""}), separators=(",", ":")))
        fits, large = (an_event(doc={"x": "x" * (10_240 - base + more)}) for more in (0, 1))
        spacious = json.dumps({"events": [fits]}, indent=500).encode()
        assert (await ingest(spacious)).status == 200
        heard = await ingest({"events": [fits, large]})
        assert (heard.status, heard.json["code"]) == (400, "EVENT_TOO_LARGE")
        assert heard.json["details"] == {"indices": [1], "maxSize": 10_240}


@pytest.mark.parametrize("chunks", [1, 3])
async def test_a_body_over_a_mebibyte_is_413(door, chunks):
    async with home():
        body = json.dumps({"events": [an_event(doc={"x": "x" * 2**20})]}).encode()
        heard = await ingest(body, door=door, chunks=chunks)
        assert (heard.status, heard.json["code"]) == (413, "PAYLOAD_TOO_LARGE")
        assert heard.json["details"]["maxSize"] == 1_048_576
        assert heard.json["details"]["contentLength"] > 1_048_576


AUTHS = [
    ({}, 401, "AUTH_REQUIRED"),
    ({"authorization": "Basic abc"}, 401, "INVALID_AUTH_FORMAT"),
    ({"authorization": "evodb_x"}, 401, "INVALID_AUTH_FORMAT"),
    ({"authorization": "Bearer "}, 401, "AUTH_REQUIRED"),
    ({"authorization": "Bearer evodb_wrong"}, 401, "INVALID_API_KEY"),
    ({"authorization": "Bearer ns_acme_" + "0" * 64}, 401, "INVALID_API_KEY"),
    ({"authorization": "Bearer ns_"}, 401, "INVALID_NAMESPACE_KEY"),
    ({"authorization": "Bearer ns_acme"}, 401, "INVALID_NAMESPACE_KEY"),
    ({"authorization": "Bearer ns_../x_" + "0" * 64}, 401, "INVALID_NAMESPACE_KEY"),
    *(
        ({"authorization": f"Bearer ns_{name}_" + "0" * 64}, 401, "INVALID_NAMESPACE_KEY")
        for name in ("admin", "system", "internal", "default", "public", "global")
    ),
]


@pytest.mark.parametrize(("headers", "status", "code"), AUTHS)
async def test_who_shows_no_good_key_hears_which_kind_of_bad_it_is(headers, status, code, door):
    async with home(open=False):
        heard = await ingest({"events": events(1)}, headers=headers, door=door)
        assert (heard.status, heard.json["code"], heard.headers["www-authenticate"]) == (status, code, "Bearer")
        assert not await in_thread(Parent.objects.exists)


async def test_a_key_without_the_scope_ingest_brings_nothing():
    async with home(open=False):
        token = await key_of("acme", "query")
        heard = await ingest({"events": events(1)}, token=token)
        assert (heard.status, heard.json["code"]) == (403, "FORBIDDEN")


BAD_NAMESPACES = ["../x", "..", "a/b", "a.b", "", " ", "a" * 65, "-a", "ü", "a\n", "*", "%2e%2e"]


@pytest.mark.parametrize("name", BAD_NAMESPACES)
async def test_a_namespace_that_is_no_name_is_refused(name):
    async with home(open=False):
        for token in (await admin_key(), await key_of("acme")):
            heard = await ingest({"events": []}, f"/ingest?namespace={urllib.parse.quote(name)}", token=token)
            # An empty parameter is none.
            assert (heard.status, heard.json.get("code")) == ((400, "INVALID_NAMESPACE") if name else (200, None))


async def test_a_reserved_namespace_is_for_admins():
    async with home(open=False):
        token = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=1)[1])
        assert (await ingest({"events": []}, "/e?namespace=system", token=token)).json["code"] == "INVALID_NAMESPACE"
        assert (await ingest({"events": []}, "/e?namespace=tenant", token=token)).json["namespace"] == "tenant"
        heard = await ingest({"events": []}, "/e?namespace=system", token=await admin_key())
        assert heard.json["namespace"] == "system"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE"])
async def test_another_method_is_405(method):
    async with home():
        heard = await ask(method, "/ingest")
        assert (heard.status, heard.headers["allow"]) == (405, "POST")
        if method != "HEAD":
            assert heard.json["code"] == "METHOD_NOT_ALLOWED"


async def test_a_browser_may_ask_from_any_page():
    async with home(open=False):
        heard = await ask("OPTIONS", "/e", headers={"origin": "https://shop.example"})
        assert heard.status == 200
        assert heard.headers["access-control-allow-origin"] == "*"
        assert "POST" in heard.headers["access-control-allow-methods"]
        assert "Authorization" in heard.headers["access-control-allow-headers"]


async def test_a_beacon_sends_plain_text_and_its_key_in_the_address(door):
    async with home(open=False):
        token = await key_of("acme")
        body = {"events": [{"type": "page", "ts": an_event()["ts"], "properties": {"path": "/"}}]}
        heard = await ingest(body, f"/e?token={token}", headers={"content-type": "text/plain"}, door=door)
        assert (heard.status, heard.json["namespace"]) == (200, "acme")


async def test_no_events_are_a_success_and_stored_nowhere():
    async with home():
        heard = await ingest({"events": [], "batchId": "b"})
        assert (heard.status, heard.json["received"]) == (200, 0)
        assert not await in_thread(Batch.objects.exists)


async def test_the_id_of_a_request_comes_back_unless_no_header_can_have_it():
    async with home():
        for asked, found in (("8e03-å".encode("latin-1").decode("latin-1"), None), ("8e03978e", "8e03978e")):
            heard = await ingest(b"", headers={"x-correlation-id": asked})
            assert (heard.headers["x-correlation-id"] == asked) is (found is not None)


# Once.


async def test_the_same_batch_is_stored_once(door):
    async with home():
        body = {"events": events(2), "batchId": "shop-1-000017"}
        heard = [await ingest(body, door=door) for _ in range(3)]
        assert [one.json.get("deduplicated") for one in heard] == [None, True, True]
        assert [one.json["received"] for one in heard] == [2, 2, 2]
        assert len(await rows()) == 2
        assert "deduplicated" not in (await ingest({**body, "batchId": "shop-1-000018"})).json


async def test_a_batch_id_that_was_used_for_other_events_loses_none_of_them():
    async with home():
        await ingest({"events": events(2), "batchId": "b"})
        heard = await ingest({"events": events(3), "batchId": "b"})
        assert (heard.status, heard.json["code"]) == (400, "INVALID_BATCH")
        assert "used for other events" in heard.json["error"]
        assert len(await rows()) == 2


async def test_two_tenants_may_use_the_same_batch_id_and_the_same_event_id():
    async with home(open=False):
        body = {"events": [an_event(id="e-1")], "batchId": "b"}
        for tenant in ("acme", "globex"):
            heard = await ingest(body, token=await key_of(tenant))
            assert (heard.json["namespace"], "deduplicated" in heard.json) == (tenant, False)
        assert sorted(row["ns"] for row in await rows()) == ["acme", "globex"]


async def test_an_event_with_an_id_is_stored_once_whatever_batch_it_comes_in():
    async with home():
        assert (await ingest({"events": [an_event(1, id="a"), an_event(2), an_event(3, id="a")]})).status == 200
        assert (await ingest({"events": [an_event(4, id="a"), an_event(5, id="b")]})).json["received"] == 2
        heard = await ingest({"events": [an_event(6, id="b")]})
        assert (heard.json["received"], heard.json["deduplicated"]) == (1, True)
        assert [row["docId"] for row in await rows()] == ["user-1", "user-2", "user-5"]
        assert await in_thread(EventId.objects.count) == 2


async def test_an_older_event_is_taken_from_an_admin():
    async with home(open=False):
        token = await admin_key()
        assert (await ingest({"events": [an_event(age_ms=400 * DAY_MS)]}, token=token)).status == 200
        heard = await ingest({"events": [an_event(ts="1969-12-31T23:59:59.999Z")]}, token=token)
        assert heard.json["code"] == "INVALID_EVENT"
        assert (await ingest({"events": [an_event(age_ms=-3_660_000)]}, token=token)).status == 400


async def test_a_record_of_the_newer_shape_becomes_a_change_of_its_collection():
    record = {
        "id": "01HX",
        "ns": "https://shop-1.example",
        "ts": an_event()["ts"],
        "type": "cdc",
        "event": "user.updated",
        "url": "https://shop-1.example/rpc",
        "source": "do",
        "actor": {"id": "ada"},
        "data": {"type": "users", "id": "user-1", "name": "Ada"},
        "meta": {"prev": {"name": "A."}, "bookmark": "0017", "request": "r"},
    }
    async with home():
        assert (await ingest({"events": [record]})).status == 200
    (row,) = await rows()
    assert row == {
        "id": "01HX",
        "ns": "default",
        "type": "collection.update",
        "ts": record["ts"],
        "do": {"id": "https://shop-1.example"},
        "collection": "users",
        "docId": "user-1",
        "doc": {"name": "Ada"},
        "prev": {"name": "A."},
        "bookmark": "0017",
        "url": record["url"],
        "source": "do",
        "actor": {"id": "ada"},
        "meta": {"request": "r"},
    }


async def test_an_event_of_another_zone_is_kept_in_utc_and_half_an_emoji_costs_one_character():
    body = json.dumps({"events": [an_event(type="custom.x", data="HERE!")]}).replace("HERE", "\\ud83d").encode()
    async with home(open=False):
        token = await admin_key()
        assert (await ingest(body, token=token)).status == 200
        await ingest({"events": [an_event(ts="2026-01-31T12:00:00+02:00")]}, token=token)
    mended, moved = await rows()
    assert mended["data"] == "\ufffd!"
    assert moved["ts"] == "2026-01-31T10:00:00.000Z"


# Too much, too often, away.


async def test_more_requests_than_a_minute_may_have_are_429_until_it_is_over():
    async with home(events_requests_per_minute=2) as (opened, _):
        now = opened.now_ms()
        opened.now_ms = lambda: now
        heard = [await ingest({"events": events(1)}) for _ in range(3)]
        assert [one.status for one in heard] == [200, 200, 429]
        assert heard[0].headers["x-ratelimit-limit-requests"] == "2"
        assert heard[0].headers["x-ratelimit-remaining-requests"] == "1"
        assert heard[2].headers["x-ratelimit-remaining-requests"] == "0"
        wait_s = int(heard[2].headers["retry-after"])
        assert 1 <= wait_s <= 61
        assert int(heard[2].headers["x-ratelimit-reset"]) >= now // 1000 + wait_s
        now += wait_s * 1000
        assert (await ingest({"events": events(1)})).status == 200


async def test_more_events_than_a_minute_may_have_are_429_and_none_of_the_batch_is_stored():
    async with home(events_per_minute=1000):
        assert (await ingest({"events": events(900)})).headers["x-ratelimit-remaining-events"] == "100"
        heard = await ingest({"events": events(101), "batchId": "b"})
        assert (heard.status, heard.json["code"]) == (429, "RATE_LIMIT_EXCEEDED")
        assert heard.headers["x-ratelimit-limit-events"] == "1000"
        assert (await ingest({"events": events(100)})).status == 200
        assert len(await rows()) == 1000


async def test_what_one_key_spends_is_not_anothers():
    async with home(open=False, events_requests_per_minute=1):
        one, other = await key_of("acme"), await key_of("acme")
        assert [(await ingest({"events": []}, token=token)).status for token in (one, other, one)] == [200, 200, 429]


async def test_a_revoked_key_opens_nothing_after_ten_seconds():
    async with home(open=False) as (opened, _):
        token = await key_of("acme")
        now = opened.now_ms()
        opened.now_ms = lambda: now
        assert (await ingest({"events": []}, token=token)).status == 200
        await in_thread(lambda: AccessKey.objects.update(revoked_ms=1))
        now += 10_000
        assert (await ingest({"events": []}, token=token)).json["code"] == "INVALID_API_KEY"


async def test_a_full_buffer_says_when_to_come_back_and_keeps_nothing():
    config = {"max_buffer_entries": 2, "flush_threshold_entries": 1}
    await in_thread(lambda: Parent.objects.create(name="events.default", namespace="default", config=config))
    async with home():
        assert (await ingest({"events": events(1)})).status == 200
        heard = await ingest({"events": events(2), "batchId": "b"})
        assert (heard.status, heard.json["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert int(heard.headers["retry-after"]) >= 1
        assert len(await rows()) == 1


async def test_a_journal_that_is_away_is_503_and_the_same_may_come_again():
    async with home() as (opened, _):
        body = {"events": events(1), "batchId": "b"}
        assert (await ingest({"events": []})).status == 200
        await opened.intake.run(impatient)
        async with locked(await in_thread(Parent.objects.get)):
            heard = await ingest(body)
            assert (heard.status, "retry-after" in heard.headers) == (503, True)
        assert "deduplicated" not in (await ingest(body)).json


async def test_a_house_without_room_for_another_parent_takes_no_new_namespace():
    async with home(parents_max=1):
        assert (await ingest({"events": []}, "/e?namespace=a")).status == 200
        assert (await ingest({"events": []}, "/e?namespace=b")).json["code"] == "FORBIDDEN"
        assert (await ingest({"events": []}, "/e?namespace=a")).status == 200


async def test_the_example_of_the_docs_is_taken():
    body = openapi.ingest()["requestBody"]["content"]["application/json"]["example"]
    body["events"][0]["ts"] = an_event()["ts"]
    async with home():
        assert (await ingest(body)).json["received"] == 1


async def test_a_real_server_takes_a_thousand_events():
    async with serving() as server:
        url = server.url.replace("ws://", "http://").removesuffix("/ws")
        request = urllib.request.Request(f"{url}/ingest", json.dumps({"events": events(1000)}).encode())
        heard = await asyncio.to_thread(lambda: json.load(urllib.request.urlopen(request, timeout=20)))
        assert heard["received"] == 1000


def test_the_names_of_a_namespace_are_bounded():
    assert namespaces.holds_events("events.acme")
    assert not namespaces.holds_events("events.a/b")
    assert not namespaces.holds_events("acme")
    assert batch.EVENTS_MAX == 1000


async def test_all_events_of_a_namespace_come_to_one_child():
    async with home():
        for number in range(3):
            await ingest({"events": events(1)}, f"/e?namespace=n{number % 2}")
    found = await in_thread(lambda: sorted(Child.objects.values_list("parent__name", "name", "entries")))
    assert found == [("events.n0", "events", 2), ("events.n1", "events", 1)]
