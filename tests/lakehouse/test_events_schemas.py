"""/schemas: what a namespace says its events are like holds for the next batch, everywhere, and costs what it may."""

from __future__ import annotations

import json
import threading

import pytest

from lakehouse.events import json_schema, schema_book, schema_rows
from lakehouse.models import Batch, EventId, EventSchema, Parent, TableSchema
from tests.lakehouse.events_site import admin_key, event, events, ingest, key_of
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

USERS = {
    "type": "object",
    "required": ["collection", "doc"],
    "properties": {
        "collection": {"enum": ["users", "orders"]},
        "docId": {"type": "string", "pattern": "^user-\\d+$"},
        "doc": {"$ref": "#/$defs/user"},
    },
    "$defs": {
        "user": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "number": {"type": "integer", "minimum": 0}},
            "patternProperties": {"^x-": True},
            "additionalProperties": False,
        }
    },
}
KIND = "collection.insert"
OTHER = "custom.other"


async def put(schema, kind=KIND, **options):
    return await ask("PUT", f"/schemas/{kind}", schema, **options)


async def made(schema, kind=KIND, namespace="default"):
    """As PUT makes one, without its checks."""

    def make():
        parent, _ = Parent.objects.get_or_create(name=f"events.{namespace}", defaults={"namespace": namespace})
        schema_rows.put(parent.pk, kind, json.dumps(schema), now_ms=7)

    await in_thread(make)


async def test_a_schema_is_put_seen_replaced_and_deleted():
    async with home(open=False):
        token = await key_of("acme", "admin")
        assert (await ask("GET", "/schemas", token=token)).json == {"namespace": "acme", "schemas": []}
        heard = await put(USERS, token=token)
        assert (heard.status, heard.json["schema"], heard.json["type"]) == (201, USERS, KIND)
        assert (await put({"type": "object"}, OTHER, token=token)).status == 201
        assert (await put({}, OTHER, token=token)).status == 200
        listed = (await ask("GET", "/schemas", token=token)).json["schemas"]
        assert [one["type"] for one in listed] == [KIND, OTHER]
        assert listed[0]["changedAt"].endswith("Z")
        reader = await key_of("acme", "query")
        assert (await ask("GET", f"/schemas/{OTHER}", token=reader)).json["schema"] == {}
        assert (await ask("DELETE", f"/schemas/{OTHER}", token=token)).json["type"] == OTHER
        for method in ("GET", "DELETE"):
            heard = await ask(method, f"/schemas/{OTHER}", token=token)
            assert (heard.status, heard.json["code"]) == (404, "NOT_FOUND")


BAD_EVENTS = [
    ({"doc": {"name": 7}}, "/doc/name", "7 is not of type 'string'"),
    ({"doc": {"number": -1}}, "/doc/number", "-1 is less than the minimum of 0"),
    ({"doc": {"number": 1.5}}, "/doc/number", "1.5 is not of type 'integer'"),
    ({"doc": {"colour": "red"}}, "/doc", "'colour' is not expected"),
    ({"docId": "user-x"}, "/docId", "does not match"),
    ({"collection": "till"}, "/collection", "'till' is not one of ['users', 'orders']"),
    ({"doc": None}, "/doc", "None is not of type 'object'"),
]


@pytest.mark.parametrize(("members", "path", "said"), BAD_EVENTS)
async def test_an_event_that_is_not_as_its_schema_says_refuses_the_batch(members, path, said):
    await made(USERS)
    async with home():
        good = [event(1), event(2, doc={"number": 2.0, "x-more": 1}), event(3, type=OTHER, doc=7)]
        heard = await ingest({"events": [*good, event(4, **members)], "batchId": "b"})
        assert (heard.status, heard.json["code"]) == (400, "SCHEMA_VALIDATION_ERROR")
        details = heard.json["details"]
        (error,) = details.pop("errors")
        assert (error["index"], error["path"], said in error["message"]) == (3, path, True), error
        assert details == {"indices": [3]}
        assert heard.json["error"] == f"events[3]{path}: {error['message']}"
        assert not await in_thread(Batch.objects.exists)
        assert "deduplicated" not in (await ingest({"events": good, "batchId": "b"})).json


async def test_what_is_missing_is_said_of_at_most_ten_events():
    await made(USERS)
    async with home():
        bare = {name: value for name, value in event().items() if name != "doc"}
        heard = await ingest({"events": [bare] * 12})
        assert heard.json["details"]["indices"] == list(range(10))
        assert [one["index"] for one in heard.json["details"]["errors"]] == list(range(10))
        assert heard.json["details"]["errors"][0] | {"index": 0} == {
            "index": 0,
            "path": "",
            "message": "'doc' is a required property",
        }
        assert heard.json["error"].endswith("; and 2 more")


async def test_errors_come_in_the_order_of_the_table():
    await made(USERS)
    misfit, large, bad = event(doc=7), event(doc={"name": "x" * 11_000}), {}
    async with home():
        for some, code in [
            ([misfit, large, bad], "INVALID_EVENT"),
            ([misfit, large], "EVENT_TOO_LARGE"),
            ([misfit], "SCHEMA_VALIDATION_ERROR"),
            ([misfit] * 1001, "INVALID_BATCH"),
        ]:
            assert (await ingest({"events": some})).json["code"] == code


async def test_a_schema_holds_for_the_next_batch_and_until_it_is_deleted():
    async with home(open=False):
        token = await key_of("acme", "admin")
        bad = {"events": [event(doc=7)]}
        assert (await ingest(bad, token=token)).status == 200
        assert (await put(USERS, token=token)).status == 201
        assert (await ingest(bad, token=token)).json["code"] == "SCHEMA_VALIDATION_ERROR"
        assert (await put({"required": ["collection"]}, token=token)).status == 200
        assert (await ingest(bad, token=token)).status == 200
        assert (await put(USERS, token=token)).status == 200
        assert (await ask("DELETE", f"/schemas/{KIND}", token=token)).status == 200
        assert (await ingest(bad, token=token)).status == 200


async def test_a_process_that_knows_no_schema_yet_stores_nothing_against_one_that_another_process_took():
    async with home() as (opened, _):
        assert (await ingest({"events": events(1)})).status == 200
        assert len(schema_book.book_of(opened).known) == 1
        await made(USERS)
        assert (await ingest({"events": [event(doc=7)]})).json["code"] == "SCHEMA_VALIDATION_ERROR"
        assert (await ingest({"events": events(1)})).status == 200


async def test_who_changes_schemas_without_end_makes_a_batch_wait_and_not_pass(monkeypatch):
    read = schema_rows.stored

    def late(parent_id):
        found = read(parent_id)
        schema_rows.put(parent_id, OTHER, "{}", now_ms=7)
        return found

    monkeypatch.setattr(schema_rows, "stored", late)
    async with home():
        heard = await ingest({"events": events(1)})
        assert (heard.status, "retry-after" in heard.headers) == (503, True)
        assert not await in_thread(Batch.objects.exists)


async def test_what_is_remembered_of_schemas_is_bounded(monkeypatch):
    monkeypatch.setattr(schema_book, "TEXT_BYTES_MAX", 100)
    monkeypatch.setattr(schema_book, "PARSED_BYTES_MAX", 100)
    async with home() as (opened, _):
        for name in ("a", "b", "c"):
            await made({"title": name * 60}, namespace=name)
            assert (await ingest({"events": events(1)}, f"/e?namespace={name}")).status == 200
        book = schema_book.book_of(opened)
        assert len(book.known) == len(book.parsed.rows) == 1
        assert book.bytes == sum(one.bytes for one in book.known.values()) <= 100
        assert book.parsed.bytes == sum(map(len, book.parsed.rows)) <= 100


async def test_three_namespaces_with_large_schemas_do_not_push_each_other_out_and_hold_up_no_socket(monkeypatch):
    """A hundred schemas of 16 KiB were parsed on the event loop, for each batch anew where three tenants had them."""
    reads, threads = [], set()
    loads = json_schema.loads
    texts = {f"custom.{n}": json.dumps({"title": "x" * 16_300}) for n in range(99)} | {KIND: "{}"}

    def stored(parent_id):
        reads.append(parent_id)
        return schema_rows.Stored(0, texts)

    monkeypatch.setattr(schema_rows, "stored", stored)
    monkeypatch.setattr(json_schema, "loads", lambda text: (threads.add(threading.current_thread()), loads(text))[1])
    async with home():
        for name in ("a", "b", "c") * 2:
            body = {"events": [event(1), event(2, type="custom.7")]}
            assert (await ingest(body, f"/e?namespace={name}")).status == 200
    assert len(reads) == 3
    assert threads
    assert threading.main_thread() not in threads


BAD_SCHEMAS = [
    (b"", "INVALID_JSON", "the body is empty"),
    (b"{", "INVALID_JSON", "not JSON"),
    (b"\xff\xfe{\x00}\x00", "INVALID_JSON", "not JSON"),
    (b'{"minimum": NaN}', "INVALID_JSON", "not JSON"),
    (b"[" * 10_000, "INVALID_JSON", "not JSON"),
    (b"[]", "INVALID_SCHEMA", "wanted an object"),
    ({"type": "strng"}, "INVALID_SCHEMA", "schema/type: 'strng' is not valid"),
    ({"properties": {"a": {"minimum": "1"}}}, "INVALID_SCHEMA", "schema/properties/a/minimum"),
    ({"$ref": "https://example.com/x.json"}, "INVALID_SCHEMA", "a place in the same schema"),
    ({"properties": {"const": {"$ref": "file:///etc/passwd"}}}, "INVALID_SCHEMA", "a place in the same schema"),
    ({"$id": "https://example.com/", "$ref": "x"}, "INVALID_SCHEMA", "schema/$id: is not supported"),
    ({"$dynamicRef": "#x"}, "INVALID_SCHEMA", "is not supported"),
    ({"unevaluatedProperties": False}, "INVALID_SCHEMA", "wanted additionalProperties"),
    ({"$schema": "http://json-schema.org/draft-07/schema#"}, "INVALID_SCHEMA", "2020-12"),
    ({"$ref": "#/$defs/none"}, "INVALID_SCHEMA", "leads to no schema"),
    ({"$ref": "#/const", "const": {"type": 5}}, "INVALID_SCHEMA", "leads to no schema"),
    ({"allOf": [{"$ref": "#"}]}, "INVALID_SCHEMA", "refers to itself without end"),
    ({"pattern": "(?=a)b"}, "INVALID_SCHEMA", "RE2"),
    ({"pattern": "(a)\\1"}, "INVALID_SCHEMA", "RE2"),
    ({"pattern": "("}, "INVALID_SCHEMA", "RE2"),
    ({"pattern": "((a{1,50}){1,50}){1,50}"}, "INVALID_SCHEMA", "RE2"),
    ({"pattern": "x" * 513}, "INVALID_SCHEMA", "at most 512"),
    ({"patternProperties": {"(?!x)": {}}}, "INVALID_SCHEMA", "RE2"),
    ({"const": 2**70}, "INVALID_SCHEMA", "cannot be kept"),
    (b'{"const": "\\ud83d"}', "INVALID_SCHEMA", "cannot be kept"),
    (b'{"not":' * 40 + b"{}" + b"}" * 40, "INVALID_SCHEMA", "deeper than 32"),
]


@pytest.mark.parametrize(("schema", "code", "said"), BAD_SCHEMAS)
async def test_a_schema_that_is_none_is_refused_with_the_reason_and_changes_nothing(schema, code, said):
    async with home(open=False):
        heard = await put(schema, token=await admin_key())
        assert (heard.status, heard.json["code"]) == (400, code), heard.body
        assert said in heard.json["error"]
        assert not await in_thread(EventSchema.objects.exists)


async def test_a_schema_over_16_kib_is_413_and_a_type_that_is_none_400():
    async with home(open=False):
        token = await admin_key()
        heard = await put({"title": "x" * 16_384}, token=token)
        assert (heard.status, heard.json["code"]) == (413, "PAYLOAD_TOO_LARGE")
        for kind in ("a b", "x" * 129, "..%2Fx", "*"):
            heard = await put({}, kind, token=token)
            assert (heard.status, heard.json["code"]) == (400, "INVALID_REQUEST")


async def test_a_namespace_has_at_most_a_hundred(monkeypatch):
    monkeypatch.setattr(schema_rows, "SCHEMAS_MAX", 2)
    async with home(open=False):
        token = await admin_key()
        assert [(await put({}, f"custom.{n}", token=token)).status for n in (1, 2, 1, 3)] == [201, 201, 200, 400]


DOUBLING = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 3} for n in range(30)} | {"d30": {"type": "string"}}
EXPLODING = [
    ({"properties": {"doc": {"$ref": "#/$defs/d0"}}, "$defs": DOUBLING}, {}, "ask too much"),
    ({"properties": {"doc": {"$ref": "#/$defs/d0"}}, "$defs": DOUBLING}, ["x" * 10] * 700, "ask too much"),
    ({"properties": {"doc": {"pattern": "^(a+)+$"}}}, "a" * 9000 + "!", "does not match"),
    ({"properties": {"doc": {"pattern": "^(a|aa)*$"}}}, "a" * 9000 + "!", "does not match"),
    ({"properties": {"doc": {"patternProperties": {"(x+x+)+y": False}}}}, {"x" * 9000: 1, "xxy": 1}, "False schema"),
    ({"properties": {"doc": {"uniqueItems": True}}}, [[], *({"a": n} for n in range(900)), []], "non-unique"),
    ({"properties": {"doc": {"$ref": "#/properties/doc"}}}, 1, "refers to itself without end"),
    ({"properties": {"doc": {"multipleOf": 0.01}}}, 10**400, "cannot be checked"),
]


@pytest.mark.once
@pytest.mark.parametrize(("schema", "doc", "said"), EXPLODING)
async def test_a_schema_built_to_explode_refuses_the_event_and_the_server_goes_on(schema, doc, said):
    async with home(open=False):
        token = await key_of("acme", "admin")
        assert (await put(schema, token=token)).status == 201
        heard = await ingest({"events": [event(doc=doc)]}, token=token)
        assert (heard.status, heard.json["code"]) == (400, "SCHEMA_VALIDATION_ERROR")
        assert said in heard.json["error"]
        assert len(heard.body) < 2000


async def test_a_thousand_events_of_twenty_members_are_not_too_much():
    members = {f"m{n}": {"type": "integer", "minimum": 0, "maximum": 100} for n in range(20)}
    schema = {"properties": {"doc": {"properties": members, "required": list(members), "additionalProperties": False}}}
    await made(schema)
    async with home():
        some = [event(n, doc=dict.fromkeys(members, 7)) for n in range(1000)]
        assert (await ingest({"events": some})).json["received"] == 1000


async def test_a_record_of_the_newer_shape_is_asked_as_the_flat_event_it_becomes():
    await made(USERS | {"required": ["collection", "docId", "doc", "do"]})
    data = {"type": "users", "id": "user-1", "name": "Ada"}
    record = {"ns": "shop-1", "ts": event()["ts"], "type": "cdc", "event": "user.created", "data": data}
    async with home():
        assert (await ingest({"events": [record]})).status == 200
        heard = await ingest({"events": [record | {"data": data | {"id": "x"}}]})
        assert heard.json["details"]["errors"][0]["path"] == "/docId"


async def test_the_schemas_of_a_tenant_are_nobody_elses():
    async with home(open=False):
        acme, globex = await key_of("acme", "admin"), await key_of("globex", "admin")
        assert (await put({"required": ["never"]}, token=acme)).json["namespace"] == "acme"
        assert (await ask("GET", "/schemas", token=globex)).json == {"namespace": "globex", "schemas": []}
        assert (await ask("GET", f"/schemas/{KIND}", token=globex)).status == 404
        assert (await ask("DELETE", f"/schemas/{KIND}", token=globex)).status == 404
        for method, path in (("GET", "/schemas"), *((one, f"/schemas/{KIND}") for one in ("GET", "PUT", "DELETE"))):
            heard = await ask(method, f"{path}?namespace=acme", {}, token=globex)
            assert (heard.status, heard.json["code"]) == (403, "FORBIDDEN")
        assert (await ingest({"events": events(1)}, token=globex)).status == 200
        assert (await ingest({"events": events(1)}, token=acme)).status == 400
        assert (await ask("DELETE", f"/schemas/{KIND}?namespace=acme", token=await admin_key())).status == 200


async def test_who_may_only_bring_events_changes_no_schema():
    """The key of a page is seen by all who look at the page."""
    async with home(open=False):
        for scopes, reads in (("ingest",), 403), (("ingest", "query"), 200):
            token = await key_of("acme", *scopes)
            assert (await ask("GET", "/schemas", token=token)).status == reads
            for method in ("PUT", "DELETE"):
                heard = await ask(method, f"/schemas/{KIND}", {}, token=token)
                assert (heard.status, heard.json["code"]) == (403, "FORBIDDEN")
        assert (await put({})).json["code"] == "AUTH_REQUIRED"
    async with home():
        assert (await ask("GET", "/schemas")).status == 200
        assert (await put({})).json["code"] == "AUTH_REQUIRED"


async def test_another_method_is_405_and_a_preflight_names_them():
    async with home():
        heard = await ask("POST", f"/schemas/{KIND}", {})
        assert (heard.status, heard.headers["allow"]) == (405, "GET, PUT, DELETE")
        assert (await ask("PUT", "/schemas", {})).headers["allow"] == "GET"
        heard = await ask("OPTIONS", f"/schemas/{KIND}")
        assert (heard.status, heard.headers["access-control-allow-methods"]) == (200, "GET, PUT, DELETE, OPTIONS")


async def test_an_event_that_its_table_refused_is_no_repeat_when_it_comes_again():
    """Its id was kept although it was not stored, so the second time it was answered with success and lost."""
    async with home():
        assert (await ingest({"events": []})).status == 200
        table = TableSchema(parent=await in_thread(Parent.objects.get), table="events", mode="strict")
        table.fields = {"id": "string"}
        await in_thread(table.save)
        body = {"events": [event(1, id="e-1")]}
        assert (await ingest(body)).json["code"] == "INVALID_BATCH"
        assert not await in_thread(EventId.objects.exists)
        await in_thread(table.delete)
        assert "deduplicated" not in (await ingest(body)).json
        assert await in_thread(Batch.objects.count) == 1


def test_a_schema_that_refers_to_itself_without_end_panics_nobody_wherever_the_stack_ends():
    """The library that finds references panicked where Python's stack ended within it."""
    text = json.dumps({"not": {"$ref": "#", "$recursiveRef": "#/%ZZ", "minimum": 1.5}}).encode()

    def read(frames):
        return read(frames - 1) if frames else json_schema.read(text)

    for frames in range(40):
        with pytest.raises(json_schema.BadSchema, match="refers to itself without end"):
            read(frames)
