"""DoSQL's messages become the frames of the package; what is not as the integration guide says is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rpc import batch, protocol
from rpc.batch import MESSAGE_BYTES_MAX, BatchFrame, Dialect, Encoding
from rpc.dolake.limits import DEFAULT_WIRE_LIMITS, WireLimits
from rpc.dolake.reading import dialect_in, dialect_of
from rpc.dolake.refusals import NotTaken, Reason
from rpc.errors import ProtocolError
from rpc.messages import ClientCapabilities, ConnectMessage, DisconnectMessage, FlushRequestMessage, HeartbeatMessage

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "dolake.json").read_text())
KIB = 1024


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["name"] for row in rows]


def event(sequence: int = 1, **fields: Any) -> dict[str, Any]:
    return {"sequence": sequence, "timestamp": 2, "operation": "INSERT", "table": "t", "rowId": "r"} | fields


def message(*events: Any, **fields: Any) -> str:
    made = {"type": "cdc_batch", "timestamp": 9, "correlationId": "c-4", "sourceDoId": "s"}
    return json.dumps(made | {"events": events, "sequenceNumber": 4} | fields)


def framed(text: str | bytes, **options: Any) -> BatchFrame:
    found = protocol.read(text, **options)
    assert isinstance(found, BatchFrame)
    return found


def refused(text: str | bytes, **limits: int) -> NotTaken:
    with pytest.raises(NotTaken) as caught:
        protocol.read(text, limits=WireLimits(**limits))
    return caught.value


@pytest.mark.parametrize("row", VECTORS["batches"], ids=ids(VECTORS["batches"]))
def test_a_batch_of_the_guide_becomes_a_frame(row: dict[str, Any]) -> None:
    for data in (row["text"], row["text"].encode()):
        frame = framed(data)
        assert (frame.sequence, frame.shard, frame.is_retry) == (row["sequence"], row["shard"], row["is_retry"])
        assert (frame.dialect, frame.encoding, frame.source) == (Dialect.DOLAKE, Encoding.COLUMNS, "do-1")
        found = [[*entry[:3], *(text.decode() for text in entry[3:])] for entry in batch.raw_entries(frame)]
        assert found == row["entries"]


@pytest.mark.parametrize("row", VECTORS["messages"], ids=ids(VECTORS["messages"]))
def test_every_other_message_of_the_guide_is_understood(row: dict[str, Any]) -> None:
    kinds = {
        "connect": ConnectMessage,
        "heartbeat": HeartbeatMessage,
        "flush_request": FlushRequestMessage,
        "disconnect": DisconnectMessage,
    }
    for spoken in Dialect:
        assert isinstance(protocol.read(row["text"], spoken=spoken), kinds[json.loads(row["text"])["type"]])


@pytest.mark.parametrize("row", VECTORS["refused"], ids=ids(VECTORS["refused"]))
def test_a_mistake_is_named_with_its_place_and_the_nack_finds_its_batch(row: dict[str, Any]) -> None:
    for data in (row["text"], row["text"].encode()):
        with pytest.raises(ProtocolError) as caught:
            protocol.read(data, spoken=Dialect.DOLAKE)
        assert str(caught.value) == row["said"]
        assert (caught.value.sequence_number, caught.value.correlation_id) == (row["sequence"], row["correlation_id"])


def test_values_keep_their_digits() -> None:
    text = message(event(after="HERE")).replace('"HERE"', '{"a": 0.10, "b":12345678901234567890123}')
    assert batch.raw_entries(framed(text))[0].after == b'{"a": 0.10, "b":12345678901234567890123}'


def test_a_batch_is_known_as_of_the_guide_however_late_its_events_come() -> None:
    assert framed(json.dumps({"note": "x" * 20 * KIB} | json.loads(message(event())))).dialect is Dialect.DOLAKE


def test_a_batch_of_the_package_with_events_inside_something_unknown_stays_one_of_the_package() -> None:
    entries = [event(after={"events": []})]
    text = json.dumps({"note": {"events": [1]}} | json.loads(message(entries=entries)))
    text = text.replace('"events": [], ', "")
    assert framed(text).dialect is Dialect.RPC


def test_a_batch_with_both_lists_is_not_guessed_at() -> None:
    assert "not both" in str(refused(message(event(), entries=[])))


def test_the_first_word_that_only_one_dialect_has_shows_it() -> None:
    assert dialect_in(message(event(after={"entries": 1}))) is Dialect.DOLAKE
    assert dialect_in(b'{"entries" : [{"events":1}]}') is Dialect.RPC
    assert dialect_in('{"pendingEvents":1}') is Dialect.DOLAKE
    assert dialect_in('{"pendingEntries":1}') is Dialect.RPC
    assert dialect_in('{"sourceDoId":"events","correlationId":"\\"events\\":"}') is None


@pytest.mark.parametrize(
    ("binary", "epoch", "wanted"),
    [(False, None, Dialect.DOLAKE), (True, None, Dialect.RPC), (False, 5, Dialect.RPC), (True, 5, Dialect.RPC)],
)
def test_a_connect_that_wants_json_and_keeps_no_epoch_may_be_dosqls(
    binary: bool, epoch: int | None, wanted: Dialect
) -> None:
    fields = {} if epoch is None else {"epoch": epoch}
    hello = ConnectMessage(
        timestamp=1, source_do_id="s", capabilities=ClientCapabilities(binary_protocol=binary), **fields
    )
    for spoken in Dialect:
        assert dialect_of(hello, spoken) is wanted


def test_a_heartbeat_shows_the_dialect_by_what_is_pending() -> None:
    shown = protocol.read('{"type":"heartbeat","timestamp":1,"sourceDoId":"s","pendingEvents":0}')
    silent = protocol.read('{"type":"heartbeat","timestamp":1,"sourceDoId":"s"}')
    assert dialect_of(shown, Dialect.RPC) is Dialect.DOLAKE
    assert [dialect_of(silent, spoken) for spoken in Dialect] == list(Dialect)


def test_a_message_of_exactly_the_maximum_is_taken_and_one_byte_more_is_not() -> None:
    text = message(event(after="x" * 5 * KIB))
    assert framed(text, limits=WireLimits(max_payload_size=len(text))).entries == 1
    exc = refused(text + " ", max_payload_size=len(text))
    assert (exc.refusal.reason, exc.refusal.max_size) == (Reason.PAYLOAD_TOO_LARGE, len(text))
    assert exc.refusal.received_size == len(text) + 1
    assert (exc.sequence_number, exc.correlation_id) == (4, "c-4")


def test_the_size_decides_before_anything_else_does() -> None:
    assert refused(message(7, "x" * KIB), max_payload_size=KIB).refusal.reason is Reason.PAYLOAD_TOO_LARGE
    exc = refused('{"correlationId":"c-4","events":[' + "{" * 2 * KIB, max_payload_size=KIB)
    assert (exc.refusal.reason, exc.correlation_id) == (Reason.PAYLOAD_TOO_LARGE, "c-4")
    with pytest.raises(NotTaken):
        protocol.read("x" * 2 * KIB, spoken=Dialect.DOLAKE, limits=WireLimits(max_payload_size=KIB))


def test_bytes_are_counted_and_not_characters() -> None:
    text = json.dumps(json.loads(message(event(after="ü" * KIB))), ensure_ascii=False)
    size = len(text.encode())
    assert framed(text, limits=WireLimits(max_payload_size=size)).entries == 1
    assert refused(text, max_payload_size=size - 1).refusal.received_size == size
    assert refused(text, max_event_size=2 * KIB).refusal.reason is Reason.EVENT_TOO_LARGE


def test_the_packages_messages_keep_their_own_bound() -> None:
    large = message(entries=[event(after="x" * 5 * KIB * KIB)]).replace('"events": [], ', "")
    assert len(large) > DEFAULT_WIRE_LIMITS.max_payload_size
    for spoken in Dialect:
        assert framed(large, spoken=spoken).dialect is Dialect.RPC


def test_an_event_of_exactly_the_maximum_is_taken_and_one_byte_more_refuses_the_whole_batch() -> None:
    large = event(2, after="x" * KIB)
    text, size = message(event(1), large, event(3)), len(json.dumps(large))
    assert framed(text, limits=WireLimits(max_event_size=size)).entries == 3
    exc = refused(text, max_event_size=size - 1)
    assert (exc.refusal.reason, exc.refusal.max_size) == (Reason.EVENT_TOO_LARGE, size - 1)
    assert str(exc) == f"events[1]: has {size} bytes of JSON; at most {size - 1} are allowed"
    assert (exc.sequence_number, exc.correlation_id) == (4, "c-4")


def test_an_event_is_as_large_as_its_json_unknown_fields_included() -> None:
    assert refused(message(event(novelty="x" * KIB)), max_event_size=KIB).refusal.reason is Reason.EVENT_TOO_LARGE


def test_many_small_events_are_not_one_large_one() -> None:
    assert framed(message(*[event(n) for n in range(100)]), limits=WireLimits(max_event_size=100)).entries == 100


def test_more_events_than_a_message_may_have_are_refused() -> None:
    assert framed(message(event(), event()), limits=WireLimits(max_events_per_message=2)).entries == 2
    exc = refused(message(event(), event(), event()), max_events_per_message=2)
    assert (exc.refusal.reason, exc.refusal.max_size) == (Reason.TOO_MANY_EVENTS, 2)


def test_limits_that_cannot_work_are_refused() -> None:
    assert WireLimits(max_payload_size=MESSAGE_BYTES_MAX).max_payload_size == MESSAGE_BYTES_MAX
    for limits in (
        {"max_payload_size": MESSAGE_BYTES_MAX + 1},
        {"max_event_size": 0},
        {"max_events_per_message": True},
    ):
        with pytest.raises(ValueError, match="wanted"):
            WireLimits(**limits)
    assert (DEFAULT_WIRE_LIMITS.max_payload_size, DEFAULT_WIRE_LIMITS.max_event_size) == (4 * KIB * KIB, KIB * KIB)
