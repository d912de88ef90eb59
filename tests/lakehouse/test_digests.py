"""The sums of a flush are those of its entries one by one, whatever payload brought them."""

from __future__ import annotations

import pytest

from lakehouse.flush import digests
from lakehouse.flush.entries import StoredBatch
from lakehouse.flush.shred import shred
from rpc import batch as wire
from rpc import columns, entry_digest
from rpc.batch import Encoding
from rpc.entries import RawEntry, payload_of
from rpc.entry_digest import merged
from rpc.negotiation import PayloadEncoding
from rpc.shapes import shape_of
from tests.builders import NOW_MS

CHANGES = [
    RawEntry(1, NOW_MS, 0, b"orders", b"r1", b"", b'{"id": 1, "city": "Z\xc3\xbcrich"}'),
    RawEntry(2, NOW_MS + 1, 1, b"orders", b"r1", b'{"id": 1}', b'{"id": 1.50}'),
    RawEntry(3, 0, 2, b"items", b"", b'{"id": [1, {"a": null}]}', b""),
    RawEntry(4, NOW_MS, 0, b"orders", b"r" * 300, b"null", b"null", b'{"partition": "eu"}'),
    RawEntry(5, NOW_MS, 2, b"items", b"i5", b"", b""),
]


def stored(payload, encoding=Encoding.COLUMNS, *, number=1, source="shop-1", epoch=7):
    return StoredBatch(number, source, "", epoch, number, NOW_MS, encoding, payload)


def sums_of(*batches):
    """By child, epoch and table."""
    return {(one.source, one.epoch, one.table): one.sum for one in digests.of_tables(shred(batches, {}).tables)}


def test_the_digest_of_an_entry_never_changes():
    (one,) = entry_digest.of_entries(CHANGES[:1], epoch=7).values()
    assert (one.entries, one.hex, one.first, one.last) == (1, GOLDEN, 1, 1)


GOLDEN = "6e057091a81a69a9"


@pytest.mark.parametrize("encoding", [Encoding.COLUMNS, Encoding.BINARY, Encoding.BINARY_METADATA])
def test_a_flush_sums_up_what_its_entries_sum_up_to_one_by_one(encoding):
    given = CHANGES if encoding is not Encoding.BINARY else [one._replace(metadata=b"") for one in CHANGES]
    payload = columns.encode(given) if encoding is Encoding.COLUMNS else payload_of(given)[0]
    wanted = entry_digest.of_entries(CHANGES, epoch=7)
    assert sums_of(stored(payload, encoding)) == {("shop-1", 7, table): one for table, one in wanted.items()}


@pytest.mark.parametrize("encoding", [PayloadEncoding.MSGPACK, PayloadEncoding.ARROW])
def test_child_and_flush_agree_on_what_travels_in_another_payload(encoding):
    made = shape_of(encoding)(columns.encode(CHANGES))
    assert made.encoding is encoding
    framed = wire.encode(
        made.payload,
        encoding=wire.Layout.MSGPACK if encoding is PayloadEncoding.MSGPACK else Encoding.COLUMNS,
        entry_count=len(CHANGES),
        source="shop-1",
        sequence=1,
        timestamp_ms=NOW_MS,
    )
    arrived = wire.read(framed, documents=True)
    wanted = entry_digest.of_payload(made.payload, encoding, epoch=7)
    found = sums_of(stored(arrived.payload, arrived.encoding))
    assert found == {("shop-1", 7, table): one for table, one in wanted.items()}


def test_batches_of_many_children_and_lives_are_summed_apart_and_in_any_order():
    batches = [
        stored(columns.encode(CHANGES[at : at + 2]), number=at, source=f"shop-{at % 2}", epoch=at) for at in range(4)
    ]
    assert sums_of(*batches) == sums_of(*reversed(batches))
    assert len(sums_of(*batches)) == 7
    halves = [entry_digest.of_entries(part, epoch=1) for part in (CHANGES[:2], CHANGES[2:])]
    assert merged(*halves) == merged(*reversed(halves)) == entry_digest.of_entries(CHANGES, epoch=1)


def test_more_rows_than_a_slice_are_summed_as_one(monkeypatch):
    whole = sums_of(stored(columns.encode(CHANGES)))
    monkeypatch.setattr(digests, "SLICE_ROWS", 2)
    assert sums_of(stored(columns.encode(CHANGES))) == whole
    monkeypatch.setattr(digests, "LARGE_BYTES", 0)
    assert sums_of(stored(columns.encode(CHANGES))) == whole


@pytest.mark.parametrize("field", ["sequence", "timestamp_ms", "operation", "table", "row_id", "before", "after"])
def test_a_change_of_any_field_changes_the_digest(field):
    one = CHANGES[1]
    other = getattr(one, field) + (1 if isinstance(getattr(one, field), int) else b" ")
    changed = one._replace(**{field: other})
    assert entry_digest.total(entry_digest.of_entries([changed], epoch=7)).digest != (
        entry_digest.total(entry_digest.of_entries([one], epoch=7)).digest
    )


def test_a_text_that_moves_from_one_field_to_the_next_changes_the_digest():
    found = {
        entry_digest.of_entries([RawEntry(1, 1, 0, b"t", *texts)], epoch=1)["t"].digest
        for texts in ((b"ab", b"", b""), (b"a", b"b", b""), (b"a", b"", b"b"), (b"", b"ab", b""), (b"", b"", b"ab"))
    }
    assert len(found) == 5
