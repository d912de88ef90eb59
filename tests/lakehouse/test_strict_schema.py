"""A strict schema refuses at the door, in words, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.test.utils import CaptureQueriesContext

from lakehouse import declared
from lakehouse.conf import Settings
from lakehouse.journal import strict
from lakehouse.journal.accept import Accepted, Refused, accept
from lakehouse.models import Batch, TableSchema
from rpc import arrow_payload, batch, entries
from rpc.batch import BatchFrame, Dialect, Encoding
from rpc.entries import RawEntry
from rpc.messages import AckStatus, NackReason, WalEntry, WalOperation
from tests.builders import NOW_MS, entry, frame, parent, run
from tests.lakehouse.http_site import home as http_home
from tests.lakehouse.schema_site import Street
from tests.lakehouse.test_http_cdc import events, post
from tests.lakehouse.test_intake import in_thread
from tests.lakehouse.test_nacks import batch as wire_batch
from tests.lakehouse.test_nacks import child, home

FIELDS = {
    "id": "long not null",
    "price": "decimal(5,2)",
    "ok": "boolean",
    "x": "double",
    "name": "string",
    "day": "date",
    "at": "timestamptz",
    "more": "json",
    "tags": ["string"],
    "to": {"city": "string", "zip": ["long"]},
    "xs": ["double"],
}
SCHEMAS = {b"orders": strict.strict(declared.read(FIELDS))}


def said(document: Any, *, operation: int = 0, dialect: Dialect = Dialect.RPC) -> str:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    before, after = (text, b"") if operation == entries.DELETE else (b"", text)
    found = frame(1, [RawEntry(1, NOW_MS, operation, b"orders", b"r1", before, after)])
    return strict.complaint(found._replace(dialect=dialect), SCHEMAS)


@pytest.mark.parametrize(
    "document",
    [
        {"id": 1},
        {"id": -(2**63), "price": 123.45, "ok": False, "x": 1, "name": "", "day": "2013-01-01"},
        {"id": 1, "price": "0.10", "x": None, "at": "2013-01-01T05:00:00+14:00", "more": [1], "tags": ["a", None]},
        {"id": 1, "to": {"city": "Rome", "zip": [1]}, "more": {"any": {"thing": 1.5}}},
        b'{"id":1,"x":NaN}',
    ],
)
def test_what_the_columns_would_hold_is_taken(document: Any) -> None:
    assert said(document) == ""


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({}, "after.id: is required"),
        ({"id": None}, "after.id: is required"),
        ({"id": 1, "colour": None}, "after.colour: no such column"),
        ({"id": "1"}, 'after.id: expected long, got "1"'),
        ({"id": 1.0}, "after.id: expected long, got 1.0"),
        ({"id": 2**63}, f"after.id: expected long, got {2**63}"),
        ({"id": 1, "price": 1.005}, "after.price: expected decimal(5,2), got 1.005"),
        ({"id": 1, "price": 1234.5}, "after.price: expected decimal(5,2), got 1234.5"),
        ({"id": 1, "ok": 1}, "after.ok: expected boolean, got 1"),
        ({"id": 1, "x": 2**53 + 1}, f"after.x: expected double, got {2**53 + 1}"),
        ({"id": 1, "name": {"a": 1}}, 'after.name: expected string, got {"a": 1}'),
        ({"id": 1, "day": "soon"}, 'after.day: expected date, got "soon"'),
        ({"id": 1, "at": "2013-01-01T05:00:00"}, "after.at: expected timestamptz"),
        ({"id": 1, "more": 1}, "after.more: expected json, got 1"),
        ({"id": 1, "tags": ["a", 1]}, "after.tags: expected a list of string"),
        ({"id": 1, "to": {"street": "x"}}, "after.to: expected an object of its fields"),
        ([1], "after: expected an object, got [1]"),
        (b"{", "after: expected an object, got {"),
        (b"", "after: expected an object, got nothing"),
        (b'{"id":1,"name":"\xff"}', "entries: a text in a document is not UTF-8"),
        ({"id": 1, "name": ["x" * 999]}, f'got ["{"x" * 58}...'),
        (b'{"id":1,"zips":1,"\\ud800":1}', r"after.\xed\xa0\x80: no such column"),
        (b'{"id":1,"to":{"zip":[1e400]}}', "after.to: expected an object of its fields"),
        (b'{"id":1,"x":1e400}', "after.x: expected double, got 1e400"),
        (b'{"id":1,"xs":[1,-1e400]}', "after.xs: expected a list of double"),
    ],
)
def test_anything_else_is_refused_with_its_path(document: Any, complaint: str) -> None:
    assert complaint in said(document).encode().decode()  # as it travels
    assert said(document).startswith(("entries[0].after", "entries: "))


def test_a_delete_need_not_be_whole_and_the_words_are_those_of_the_dialect() -> None:
    assert said(b"", operation=entries.DELETE) == ""
    assert said({"name": "x"}, operation=entries.DELETE) == ""
    found = said({"x": "y"}, operation=entries.DELETE, dialect=Dialect.DOLAKE)
    assert found.startswith('events[0].before.x: expected double, got "y"')


def test_ten_mistakes_are_told_and_other_tables_are_not_looked_at() -> None:
    wrong = frame(1, [*run(1, 50, after={"id": "x"}), entry(51, table="other", after=[1])])
    assert strict.complaint(wrong, SCHEMAS).count(";") == 9
    assert strict.complaint(frame(1, run(1, 3, table="other")), SCHEMAS) == ""


def test_documents_that_came_as_arrow_are_looked_at_too() -> None:
    found = arrow_frame({"id": 1, "x": 1.5, "at": "2013-01-01T05:00:00Z"}, {"id": 2, "name": 7})
    assert strict.complaint(found, SCHEMAS).startswith("entries[1].after.name: expected string, got 7")


def arrow_frame(*documents: Any) -> BatchFrame:

    rows = [
        WalEntry(sequence=at, timestamp=NOW_MS, operation=WalOperation.INSERT, table="orders", row_id="r", after=one)
        for at, one in enumerate(documents, start=1)
    ]
    data = batch.encode(
        arrow_payload.encode(rows),
        encoding=Encoding.COLUMNS,
        entry_count=len(rows),
        source="shop-1",
        sequence=1,
        timestamp_ms=NOW_MS,
    )
    return batch.read(data, documents=True)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ([1], "found list, wanted an object"),
        ({"a": "int"}, "a: found .*int.*, wanted one of boolean, long"),
        ({"a": "decimal(39,2)"}, "wanted 1 to 38 digits"),
        ({"a": "decimal(2,3)"}, "wanted 1 to 38 digits"),
        ({"a": []}, r"a: found \[\], wanted"),
        ({"a": {"b": 1}}, "a.b: found 1, wanted"),
        ({"a": ["json"]}, "neither decimals nor json within"),
        ({"a": {"b.c": "long"}}, "a.'b.c': found a name that no column may have"),
        ({"_a": "long"}, "'_a': found a name that no column may have"),
        ({"a": "long", "A": "long"}, "A: found 'a' too"),
        ({f"k{number}": "long" for number in range(1001)}, "found 1001 fields, wanted at most 1000"),
        ({"a": [[[[[[[[[["long"]]]]]]]]]]}, "found more than 8 levels"),
    ],
)
def test_a_schema_that_cannot_work_is_refused_with_words(fields: Any, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TableSchema(table="orders", fields=fields).clean_fields(exclude=["parent"])


@pytest.mark.django_db
def test_a_strict_schema_without_fields_and_a_table_without_a_name_are_refused() -> None:
    for row in (TableSchema(table="orders", mode="strict"), TableSchema(table="../x", mode="off")):
        row.parent = parent(f"p{row.mode}")
        with pytest.raises(ValidationError):
            row.full_clean()


@pytest.mark.django_db(transaction=True)
def test_a_schema_counts_from_the_next_batch_on_and_repeats_stay_repeats(tmp_path: Path) -> None:
    street = Street(Settings(data_dir=tmp_path))
    street.send({"id": "x"}, {"id": "y"})
    schema = street.schema(mode="strict", fields={"id": "string", "n": "long"})
    refused = street.send({"id": "z"}, {"id": 1})
    assert isinstance(refused, Refused)
    assert refused.reason is NackReason.INVALID_FORMAT
    assert refused.message == "entries[1].after.id: expected string, got 1 (table orders has a strict schema)"
    assert Batch.objects.count() == 1
    street.schema(fields={"n": "long"})
    wrong_by_now = [
        RawEntry(at, NOW_MS, 0, b"orders", b"r%d" % at, b"", b'{"id": "%s"}' % x) for at, x in ((1, b"x"), (2, b"y"))
    ]
    (repeat,), _ = accept([(street.shop, frame(1, wrong_by_now))], now_ms=NOW_MS)
    assert isinstance(repeat, Accepted)
    assert repeat.status is AckStatus.DUPLICATE
    more = [*wrong_by_now, RawEntry(3, NOW_MS, 0, b"orders", b"r3", b"", b'{"n":1}')]
    (cut,), _ = accept([(street.shop, frame(2, more))], now_ms=NOW_MS)
    assert isinstance(cut, Accepted)
    schema.delete()
    street.sent, street.batches = 3, 2
    assert isinstance(street.send({"any": "thing"}), Accepted)


@pytest.mark.django_db(transaction=True)
def test_without_a_schema_the_journal_asks_not_one_query_more(tmp_path: Path) -> None:
    street = Street(Settings(data_dir=tmp_path))

    def queries() -> list[str]:
        with CaptureQueriesContext(connection) as found:
            street.send({"id": "x"})
        return [query["sql"] for query in found]

    street.send({"id": "x"})
    before = len(queries())
    assert not any("tableschema" in query for query in queries())
    street.schema(mode="strict", fields={"id": "string"})
    assert [len(queries()) - before for _ in range(3)] == [1, 0, 0]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("dialect", ["dolake", "rpc"])
async def test_a_child_hears_which_field_was_wrong_and_not_to_try_again(dialect: str) -> None:
    def register() -> None:
        TableSchema(parent=parent(), table="orders", mode="strict", fields={"id": "string"}).save()

    await in_thread(register)
    async with home(), child() as shop:
        heard = await shop.ask(wire_batch(dialect, 1))
    assert heard["type"] == "nack"
    assert heard["reason"] == "invalid_format"
    assert heard["shouldRetry"] is False
    words = {"dolake": "events", "rpc": "entries"}[dialect]
    assert heard["errorMessage"].startswith(f"{words}[0].after.id: expected string, got 1")


@pytest.mark.django_db(transaction=True)
async def test_who_posts_hears_the_same_as_a_400() -> None:
    def register() -> None:
        TableSchema(parent=parent(), table="orders", mode="strict", fields={"id": "string"}).save()

    await in_thread(register)
    async with http_home():
        answer = await post({"events": events(1, 1)})
    assert answer.status == 400
    assert answer.json["error"].startswith("events[0].after.id: expected string, got 1")
    assert await in_thread(Batch.objects.count) == 0
