"""Two tenants: whatever the key of one says or names, it neither writes nor reads what is the other's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lakehouse.catalog.storage import from_settings
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.events import jsonl
from lakehouse.models import Batch, Parent
from lakehouse.parent import access
from tests.lakehouse.events_site import admin_key, event, events, ingest, key_of
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_consumer import Socket
from tests.lakehouse.test_events_reading import flush
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

SCOPES = ("ingest", "query", "subscribe", "admin")
HOOK = {"name": "x", "pattern": "**", "targetKind": "webhook", "target": "https://example.com/"}
SAID = "said by globex"
CROSSINGS = [
    ("POST", "/ingest?namespace=globex", {"events": events(1)}),
    ("POST", "/e?namespace=globex", {"events": []}),
    ("GET", "/events?namespace=globex", b""),
    ("GET", "/recent?namespace=globex", b""),
    ("GET", "/events/stream?namespace=globex", b""),
    ("GET", "/schemas?namespace=globex", b""),
    ("GET", "/schemas/custom.x?namespace=globex", b""),
    ("PUT", "/schemas/custom.x?namespace=globex", {}),
    ("DELETE", "/schemas/custom.x?namespace=globex", b""),
    ("POST", "/query", {"sql": "SELECT * FROM globex.events"}),
    ("POST", "/query", {"sql": "SELECT * FROM events", "namespace": "globex"}),
    ("POST", "/query", {"collection": "users", "namespace": "globex"}),
    ("POST", "/query", {"sql": "SELECT * FROM read_json_auto('r2://globex/events/**/*.jsonl')", "namespace": "globex"}),
    ("POST", "/cdc?parent=events.globex", {"events": []}),
    ("GET", "/status?parent=events.globex", b""),
    ("GET", "/verify?parent=events.globex&child=events", b""),
    ("POST", "/flush?parent=events.globex", b""),
    ("POST", "/subscriptions/subscribe", HOOK | {"parent": "events.globex"}),
    ("GET", "/subscriptions/match?parent=events.globex&eventType=custom.x", b""),
]


@pytest.fixture
async def tenants():
    """The key of acme, beside what globex has; which it may not touch."""
    async with home(open=False):
        acme, globex = await key_of("acme", *SCOPES), await key_of("globex", *SCOPES)
        for token in (acme, globex):
            assert (await ingest({"events": [event(doc={"said": SAID})]}, token=token)).status == 200
        assert (await ask("PUT", "/schemas/custom.x", {"title": SAID}, token=globex)).status == 201
        heard = await ask("POST", "/subscriptions/subscribe", HOOK | {"parent": "events.globex"}, token=globex)
        assert heard.status == 201, heard.body
        yield acme


async def test_no_request_crosses_into_another_namespace(tenants):
    before = await in_thread(Batch.objects.count)
    for method, path, body in CROSSINGS:
        heard = await ask(method, path, body, token=tenants)
        assert heard.status in (403, 404), (method, path, heard.body)
        assert SAID not in heard.body.decode()
    heard = await ask("GET", "/subscriptions/list?parent=events.globex", token=tenants)
    assert (heard.status, heard.json["subscriptions"]) == (200, [])
    assert await in_thread(Batch.objects.count) == before


async def test_the_metrics_of_a_key_are_those_of_its_namespace(tenants):
    text = (await ask("GET", "/metrics", token=tenants)).body.decode()
    assert 'parent="events.acme"' in text
    assert "globex" not in text


async def test_a_key_for_one_namespace_reads_the_status_of_its_own_parents_only(tenants):
    assert (await ask("GET", "/status?parent=events.acme", token=tenants)).status == 200
    for name in ("nowhere", "default", "events.none"):
        assert (await ask("GET", f"/status?parent={name}", token=tenants)).status == 403


async def test_no_socket_crosses_either(tenants):
    for path in ("/ws/events.globex", "/ws", "/ws/events.new"):
        child = Socket(path, token=tenants)
        assert not await child.open()


CHANGE = {"sequence": 1, "timestamp": 1, "operation": "INSERT", "table": "t", "rowId": "1", "after": {}}
ABOUT_A_PARENT = ("/iceberg", "/status", "/flush", "/verify")
ROADS = [
    ("POST", "/cdc?parent=events.system", {"sourceDoId": "shop-1", "events": [CHANGE]}),
    ("POST", "/ingest?namespace=system", {"events": events(1)}),
    ("GET", "/events?namespace=system", b""),
    ("GET", "/events/stream?namespace=system", b""),
    ("GET", "/documents/users/user-1?namespace=system", b""),
    ("GET", "/schemas?namespace=system", b""),
    ("POST", "/query", {"sql": "SELECT * FROM system.events"}),
    ("POST", "/query", {"sql": "SELECT * FROM current.system.events"}),
    ("POST", "/query", {"eventTypes": ["do.*"], "namespace": "system"}),
    ("GET", "/status?parent=events.system", b""),
    ("POST", "/flush?parent=events.system", b""),
    ("GET", "/verify?parent=events.system&child=events", b""),
    ("POST", "/subscriptions/subscribe", HOOK | {"parent": "events.system"}),
    ("GET", "/subscriptions/match?parent=events.system&eventType=do.create", b""),
    ("GET", "/iceberg/v1/namespaces/system/tables/events", b""),
]


@pytest.mark.parametrize("is_open", [False, True], ids=["a key for everything but admin", "an open house"])
async def test_what_the_house_tells_of_itself_is_for_admins_by_whatever_road(tmp_path, is_open):
    settings = Settings(data_dir=tmp_path / "data")
    token = None if is_open else await in_thread(plain_key)
    async with home(open=is_open, data_dir=settings.data_dir):
        admin = await admin_key()
        one = {"events": [event(doc={"said": SAID})]}
        assert (await ingest(one, "/ingest?namespace=system", token=admin)).status == 200
        await flush(settings)
        for method, path, body in ROADS:
            if is_open and path.startswith(ABOUT_A_PARENT):
                continue  # an open house tells everybody its numbers, and its catalog asks for nothing
            heard = await ask(method, path, body, token=token)
            assert heard.status in (400, 403, 404), (method, path, heard.body)
            assert SAID not in heard.body.decode()
        found = await ask("GET", "/events?namespace=system", token=admin)
        assert [one["doc"]["said"] for one in found.json["events"]] == [SAID]
        asked = await ask("POST", "/query", {"sql": "SELECT doc FROM system.events"}, token=admin)
        assert SAID in asked.body.decode()


async def test_a_child_that_names_the_parent_of_a_tenant_first_takes_none_of_its_events_elsewhere(tmp_path):
    settings = Settings(data_dir=tmp_path / "data")
    async with home(open=False, data_dir=settings.data_dir):
        squatter = await in_thread(lambda: plain_key(namespaces="lake"))
        acme, child = await key_of("acme"), {"sourceDoId": "shop-1", "events": [CHANGE]}
        assert (await ask("POST", "/cdc?parent=events.acme", child, token=squatter)).status == 403
        assert (await ask("POST", "/cdc?parent=events.acme", child, token=await in_thread(plain_key))).status == 200
        assert (await in_thread(lambda: Parent.objects.get(name="events.acme").namespace)) == "acme"
        assert (await ingest({"events": [event(doc={"said": SAID})]}, token=acme)).status == 200
        await flush(settings)
        assert SAID in (await ask("GET", "/events", token=acme)).body.decode()
        for table in ("lake.events", "acme.events"):
            heard = await ask("POST", "/query", {"sql": f"SELECT * FROM {table}"}, token=squatter)
            assert SAID not in heard.body.decode()


async def test_events_whose_parent_is_in_another_namespace_are_not_taken_rather_than_lost_from_sight(caplog):
    await in_thread(lambda: Parent.objects.create(name="events.acme", namespace="lake"))
    async with home(open=False):
        heard = await ingest({"events": events(1)}, token=await key_of("acme"))
    assert (heard.status, heard.json["code"], heard.headers["retry-after"]) == (503, "SERVICE_UNAVAILABLE", "60")
    assert "parent events.acme is in the namespace lake, and its rows stay there; give it another name" in caplog.text


def plain_key(**bindings: str) -> str:
    scopes = ["ingest", "query", "subscribe"]
    return access.new_key("plain", scopes=scopes, now_ms=now_ms(), **bindings)[1]


async def test_a_delivery_signed_for_one_tenant_is_nothing_for_another():
    """More of it is in test_events_webhooks."""
    async with home(open=False, events_webhook_secrets='{"globex": {"github": "s"}}'):
        heard = await ask("POST", "/webhooks/github?namespace=acme", {"zen": 1})
        assert (heard.status, heard.json["code"]) == (401, "INVALID_SIGNATURE")
        assert not await in_thread(Parent.objects.exists)


UP = "../../../up"


async def test_a_way_up_in_any_member_is_text_and_leads_nowhere(tmp_path):
    settings = Settings(data_dir=tmp_path / "data", events_jsonl=str(tmp_path / "lines"))
    members = dict.fromkeys(("id", "collection", "docId", "source", "userId", "bookmark", UP), UP)
    one = event(do={"id": UP, "class": UP}, doc={UP: UP}, **members)

    def export():
        return jsonl.export(jsonl.storage_of(settings), from_settings(settings), now_ms=now_ms, until=lambda: False)

    async with home(data_dir=settings.data_dir):
        assert (await ingest({"events": [one], "batchId": UP})).status == 200
        await flush(settings)
        (found,) = (await ask("GET", f"/events?source={UP}")).json["events"]
        assert found == one | {"ns": "default"}
        assert await in_thread(export) == 1
    written = [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")]
    assert set(written) == {"data", "lines"}
    (lines,) = Path(tmp_path, "lines").rglob("*.jsonl")
    assert json.loads(lines.read_text())["docId"] == UP


REFUSED_FIRST = [
    ({"events": [{}]}, 400),
    ({"events": [event(doc={"x": "x" * 11_000})]}, 400),
    ({"events": [event()] * 1001}, 400),
    ({"events": [event(doc={"x": "x" * 2**20})]}, 413),
    ({"events": events(501)}, 429),
]


@pytest.mark.parametrize(("body", "status"), REFUSED_FIRST)
async def test_a_batch_id_that_was_refused_may_be_used_for_something_else(body, status):
    async with home(open=False, events_per_minute=1000):
        token = await key_of("acme")
        assert (await ingest({"events": events(500)}, token=token)).status == 200
        assert (await ingest(body | {"batchId": "b"}, token=token)).status == status
        heard = await ingest({"events": events(3), "batchId": "b"}, token=token)
        assert (heard.status, heard.json["received"], "deduplicated" in heard.json) == (200, 3, False)


async def test_a_batch_id_refused_for_its_key_may_be_used_with_a_better_one():
    async with home(open=False):
        body = {"events": events(1), "batchId": "b"}
        reader = await in_thread(lambda: access.new_key("k", scopes=["query"], now_ms=1)[1])
        assert [(await ingest(body, token=one)).status for one in (None, "evodb_x", reader)] == [401, 401, 403]
        assert "deduplicated" not in (await ingest(body, token=await key_of("acme"))).json
