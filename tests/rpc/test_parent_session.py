import itertools
import json

import pytest

from rpc.batch import BatchFrame
from rpc.messages import (
    AckStatus,
    ClientCapabilities,
    ConnectMessage,
    DisconnectMessage,
    FlushRequestMessage,
    HeartbeatMessage,
    NackReason,
)
from rpc.protocol import decode_message, encode_message
from rpc.session import ParentSession
from tests.builders import NOW_MS, entry, run, wire


def session(**options):
    return ParentSession(**{"source": None, "window_batches_max": 10} | options)


def said(step):
    return decode_message(step)


def test_ping_is_answered_pong():
    assert session().receive("ping", now_ms=NOW_MS) == "pong"


def test_a_heartbeat_is_answered_with_its_time_and_ours():
    heartbeat = encode_message(HeartbeatMessage(timestamp=5, source_do_id="shop-1"))
    pong = said(session().receive(heartbeat, now_ms=NOW_MS))
    assert (pong.timestamp, pong.server_time) == (5, NOW_MS)


def test_a_batch_may_be_the_first_frame_and_names_the_child():
    shop = session()
    assert isinstance(shop.receive(wire(1, run(1, 2)), now_ms=NOW_MS), BatchFrame)
    assert shop.source == "shop-1"


def test_a_header_outranks_what_the_batch_says():
    shop = session(source="shop-9")
    shop.receive(wire(1, run(1, 2)), now_ms=NOW_MS)
    assert shop.source == "shop-9"


@pytest.mark.parametrize(
    "frame",
    [b"", b"\xc2\xcd", b"\xff" * 100, "", "{}", "[]", "null", '{"type":"cdc_batch"}', '{"type":"nonsense"}', "\x00"],
)
def test_a_malformed_frame_is_refused_and_the_connection_lives(frame):
    shop = session()
    nack = said(shop.receive(frame, now_ms=NOW_MS))
    assert (nack.reason, nack.should_retry) == (NackReason.INVALID_FORMAT, False)
    assert nack.error_message
    assert isinstance(shop.receive(wire(1, run(1, 1)), now_ms=NOW_MS), BatchFrame)


def test_the_refusal_of_a_broken_batch_says_which_it_was_and_what_was_wanted():
    broken = wire(7, run(1, 2), correlation_id="c-7")[:-1]
    nack = said(session().receive(broken, now_ms=NOW_MS))
    assert (nack.sequence_number, nack.correlation_id) == (7, "c-7")
    assert f"has {len(broken)} bytes, its header says {len(broken) + 1}" in nack.error_message


@pytest.mark.parametrize("table", ["../../escape", "a b", "", ".", "..", "a/b", "naïve", "a\x00b", "x" * 256, "a\n"])
def test_unknown_table_characters_are_refused(table):
    nack = said(session().receive(wire(3, [entry(1, table=table)], correlation_id="c"), now_ms=NOW_MS))
    assert (nack.reason, nack.sequence_number, nack.correlation_id) == (NackReason.INVALID_FORMAT, 3, "c")
    assert "table name" in nack.error_message


@pytest.mark.parametrize("table", ["orders", "Orders_2.eu-west", "1", "x" * 255, "..a"])
def test_usual_table_names_are_taken(table):
    assert isinstance(session().receive(wire(3, [entry(1, table=table)]), now_ms=NOW_MS), BatchFrame)


def test_sequences_beyond_what_can_be_stored_are_refused():
    for frame in (wire(2**63, run(1, 1)), wire(1, [entry(2**63)])):
        assert said(session().receive(frame, now_ms=NOW_MS)).reason is NackReason.INVALID_FORMAT


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("sourceDoId", ""),
        *itertools.product(["sourceDoId", "sourceShardName"], ["x" * 501, "a\x00b", "a\nb", "\ud800"]),
    ],
)
def test_a_name_that_cannot_be_stored_is_refused(field, name):
    text = json.dumps({"type": "connect", "timestamp": 1, "sourceDoId": "shop-1"} | {field: name})
    assert said(session().receive(text, now_ms=NOW_MS)).reason is NackReason.INVALID_FORMAT


def test_acks_are_text_unless_the_child_asked_for_bytes():
    shop = session()
    batch = shop.receive(wire(1, run(1, 2), correlation_id="c"), now_ms=NOW_MS)
    text = shop.ack(batch, AckStatus.OK, entries=2, utilization=0.25, now_ms=NOW_MS)
    assert isinstance(text, str)
    ack = said(text)
    assert (ack.correlation_id, ack.sequence_number, ack.status) == ("c", 1, AckStatus.OK)
    assert (ack.details.entries_processed, ack.details.buffer_utilization) == (2, 0.25)
    hello = ConnectMessage(
        timestamp=1, source_do_id="shop-1", capabilities=ClientCapabilities(binary_replies=True), epoch=1
    )
    assert isinstance(shop.receive(encode_message(hello), now_ms=NOW_MS), ConnectMessage)
    batch = shop.receive(wire(2, run(3, 4)), now_ms=NOW_MS)
    assert isinstance(shop.ack(batch, AckStatus.OK, entries=2, utilization=0.25, now_ms=NOW_MS), bytes)


def test_beyond_the_window_a_batch_is_refused_with_a_time_to_come_back():
    shop = session(window_batches_max=2)
    first = shop.receive(wire(1, run(1, 1)), now_ms=NOW_MS)
    shop.receive(wire(2, run(2, 2)), now_ms=NOW_MS)
    nack = said(shop.receive(wire(3, run(3, 3)), now_ms=NOW_MS))
    assert (nack.reason, nack.should_retry, nack.retry_delay_ms) == (NackReason.RATE_LIMITED, True, 100)
    shop.nack(first, NackReason.BUFFER_FULL, "full", retry_delay_ms=5, now_ms=NOW_MS)
    assert isinstance(shop.receive(wire(3, run(3, 3)), now_ms=NOW_MS), BatchFrame)


def test_flush_requests_and_goodbyes_are_handed_on():
    shop = session()
    for message in (FlushRequestMessage(timestamp=1, source_do_id="s"), DisconnectMessage(timestamp=1)):
        assert shop.receive(encode_message(message), now_ms=NOW_MS) == message
