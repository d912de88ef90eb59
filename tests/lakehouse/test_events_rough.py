"""Events nobody should send: what is not refused at once is readable for all who come after."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import Storage

from lakehouse.clock import now_ms
from lakehouse.dashboard import letters, tail
from lakehouse.events import callers, hours, json_schema, jsonl, reading, waiting
from lakehouse.journal.accept import accept
from lakehouse.models import AccessKey, Parent
from lakehouse.subscriptions.events import Entry, event_of
from tests.builders import entry, frame, source
from tests.lakehouse.events_site import event, events, ingest, key_of
from tests.lakehouse.http_site import ask, home, scope_of
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)
BACK = {"last-event-id": "0"}


async def told(opened, steps=1):
    stream = await reading.open_stream(scope_of("GET", "/events/stream", BACK), opened)
    await anext(stream)
    found = [await anext(stream) for _ in range(steps)]
    await stream.aclose()
    return found


async def test_an_event_that_is_no_utf8_is_refused_and_spoils_no_page_for_those_who_read():
    async with home():
        body = json.dumps({"events": events(1)}).encode().replace(b"Ada", b"\xff")
        heard = await ingest(body)
        assert (heard.status, heard.json["code"]) == (400, "INVALID_JSON")
        assert (await ask("GET", "/events")).json["count"] == 0


@pytest.mark.parametrize("form", ["%G-W%V-%uT%X.000Z", "%Y-%m-%dx%X.000Z", "%Y-%m-%dT%X,000Z"])
async def test_a_moment_written_in_an_odd_way_is_stored_as_all_others_are(tmp_path, form):
    when = event()["ts"]
    async with home(data_dir=tmp_path):
        odd = datetime.fromisoformat(when).strftime(form)
        assert (await ingest({"events": [event(1, ts=odd)]})).status == 200
        (found,) = (await ask("GET", "/events")).json["events"]
        assert found["ts"] == when[:19] + ".000Z"


@pytest.mark.parametrize("text", ["000000001" + "9" * 5000, "00000000199999999", "1001", "-1", "x"])
async def test_a_limit_that_begins_as_a_small_number_is_refused(text):
    async with home():
        heard = await ask("GET", f"/events?limit={text}")
        assert (heard.status, heard.json["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_an_event_written_over_several_lines_is_one_line_of_the_live_tail_and_of_json_lines(end):
    async with home() as (opened, _):
        body = json.dumps({"events": events(1)}, indent=2).replace("\n", end).encode()
        assert (await ingest(body)).status == 200
        (text,) = await told(opened)
        number, _, data, *rest = text.decode().splitlines()
        assert json.loads(data.removeprefix("data: "))["docId"] == "user-1"
        assert (number[:4], rest) == ("id: ", [""])
        assert jsonl._line(body.decode()).splitlines() == [json.dumps(json.loads(body), separators=(",", ":")).encode()]


async def test_a_live_tail_ends_with_the_key_that_opened_it(monkeypatch):
    monkeypatch.setattr(callers, "CHECKED_MS", 0)
    async with home(open=False) as (opened, _):
        token = await key_of("acme")
        scope = scope_of("GET", "/events/stream", BACK | {"authorization": f"Bearer {token}"})
        stream = await reading.open_stream(scope, opened)
        await anext(stream)
        await ingest({"events": events(1)}, token=token)
        assert b"user-1" in await anext(stream)
        await ingest({"events": events(2)}, token=token)
        await in_thread(lambda: AccessKey.objects.update(revoked_ms=1))
        async with asyncio.timeout(20):
            assert [one async for one in stream] == []
        assert reading.streams_of(opened).count == 0


async def test_a_live_tail_that_comes_back_from_far_behind_reads_a_few_batches_at_a_time(monkeypatch):
    monkeypatch.setattr(waiting, "BYTES_AT_ONCE", 1)
    async with home() as (opened, _):
        for number in (1, 2, 3):
            await ingest({"events": [event(number)]})
        parent_id = await in_thread(lambda: waiting.Batch.objects.values_list("parent", flat=True).first())
        steps = await in_thread(lambda: waiting.steps(parent_id, waiting.Wanted(), after=0))
        assert len(steps) == 1
        assert [f"user-{number}".encode() in text for number, text in enumerate(await told(opened, 3), 1)] == [True] * 3


def test_a_schema_in_which_a_thousand_places_refer_to_all_of_it_is_looked_at_once(monkeypatch):
    asked = []
    check = json_schema.Draft202012Validator.check_schema
    monkeypatch.setattr(json_schema.Draft202012Validator, "check_schema", lambda one: (asked.append(1), check(one)))
    places = [{"$ref": "#"}, {"$ref": "#/$defs/a"}] * 20
    json_schema.read(json.dumps({"$defs": {"a": {"anyOf": places}}}).encode())
    assert len(asked) == 2


def test_who_writes_the_same_json_lines_again_and_dies_loses_none_of_them(monkeypatch, tmp_path):
    def die(*_):
        raise SystemExit

    class Bucket(Storage):
        """As of a bucket, nobody knows where its files lie."""

        def exists(self, name):
            return (tmp_path / name).exists()

        def size(self, name):
            return (tmp_path / name).stat().st_size

        def save(self, name, content):
            (tmp_path / name).write_bytes(content.read())
            return name

        def delete(self, name):
            (tmp_path / name).unlink()

    store = Bucket()
    hours.keep(store, "a.jsonl", ContentFile(b"{}"))
    monkeypatch.setattr(store, "save", die)
    hours.keep(store, "a.jsonl", ContentFile(b"{}"))
    assert (tmp_path / "a.jsonl").read_bytes() == b"{}"


@pytest.mark.parametrize("value", [b"1e999", b"[" * 300 + b"]" * 300])
async def test_an_event_that_not_every_reader_of_json_can_read_breaks_no_page(value):
    body = json.dumps({"events": [event(1, x="?")]}).encode().replace(b'"?"', value)
    async with home() as (opened, _):
        assert (await ingest(body)).status == 200
        assert value in (await told(opened))[0]
        found = await in_thread(lambda: waiting.newest(Parent.objects.get().pk, waiting.Wanted()))
        assert value.decode() in tail._row(found[0]).body
        assert value.decode() in letters._events(b"[" + found[0].body + b"]")


def test_an_event_too_deep_to_get_an_id_is_told_as_a_document():
    text = '{"id":5,"type":"a.b","ts":"2026-01-31T12:00:00.000Z","x":' + "[" * 300 + "]" * 300 + "}"
    told = event_of("p", Entry("events", "r1", 0, None, text, 1, 1, "shop", "", 1, 1))
    assert (told.type, text.encode() in told.body) == ("collection.insert", True)


async def test_a_revoked_key_brings_nothing_when_the_clock_goes_back_an_hour():
    async with home(open=False) as (opened, _):
        token = await key_of("acme")
        assert (await ingest({"events": events(1)}, token=token)).status == 200
        await in_thread(lambda: AccessKey.objects.update(revoked_ms=1))
        opened.now_ms = lambda: now_ms() - 3_600_000
        assert (await ingest({"events": [event(2, age_ms=3_600_000)]}, token=token)).status == 401


async def test_a_body_announced_with_twenty_digits_is_too_large():
    async with home():
        heard = await ask("POST", "/ingest", b"", headers={"content-length": "9" * 20})
        assert (heard.status, heard.json["code"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_a_namespace_with_a_nul_in_it_is_none():
    async with home():
        heard = await ask("POST", "/query", {"sql": "SELECT * FROM orders", "namespace": "a\0"})
        assert (heard.status, heard.json["code"]) == (400, "INVALID_QUERY")


@pytest.mark.parametrize(
    ("after", "row_id"),
    [(b"", b"r"), (b"[1]", b"r"), (b'{"type":1}', b"r"), (b"{}", b"r"), (b'{"type":"custom.x"}', b"\xff")],
)
async def test_what_a_socket_writes_into_the_table_of_events_keeps_nobody_from_reading_them(after, row_id):
    async with home() as (opened, _):
        await ingest({"events": events(1)})

        def write():
            parent = Parent.objects.get(name="events.default")
            rough = [entry(1, table="events", timestamp_ms=now_ms())._replace(after=after, row_id=row_id)]
            accept([(source(parent, "shop-1"), frame(1, rough))], now_ms=now_ms())

        await in_thread(write)
        for query in ("", "?type=collection.*", "?type=collection.insert", "?source=shop-1", "?provider=github"):
            heard = await ask("GET", f"/events{query}")
            assert heard.status == 200
            assert [one["docId"] for one in heard.json["events"]] in (["user-1"], [])
        assert b"user-1" in (await told(opened))[0]
        parent_id = await in_thread(lambda: Parent.objects.get(name="events.default").pk)
        found = await in_thread(lambda: waiting.kinds(parent_id, first_ms=0, last_ms=2**50, bytes_max=2**20))
        assert found.counts.total() == 1
