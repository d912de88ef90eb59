"""A connection of DoSQL's client as the integration guide writes it, unmodified: what it says and what it hears."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rpc.batch import BatchFrame, Dialect
from rpc.dolake.limits import WireLimits
from rpc.dolake.refusals import Reason, retry_delay_ms
from rpc.messages import (
    AckStatus,
    BufferStats,
    ClientCapabilities,
    ConnectMessage,
    DisconnectMessage,
    FlushRequestMessage,
    FlushResponseMessage,
    FlushResult,
    NackReason,
    ParentState,
    StatusMessage,
)
from rpc.protocol import decode_message, encode_message
from rpc.session import ParentSession
from tests.builders import NOW_MS, run, wire
from tests.rpc.test_dolake_reading import event, message
from tests.rpc.test_dolake_replying import GAUGES, RATE_LIMIT

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "dolake.json").read_text())
GUIDE = {row["name"]: row["text"] for row in VECTORS["messages"] + VECTORS["batches"]}
STATUS = StatusMessage(
    timestamp=NOW_MS,
    state=ParentState.IDLE,
    buffer=BufferStats(batch_count=0, entry_count=4, total_size_bytes=0, utilization=0.0),
    connected_children=3,
)
KIB = 1024


def session(**options: Any) -> ParentSession:
    return ParentSession(**{"source": None, "window_batches_max": 10} | options)


def taken(shop: ParentSession, frame: str | bytes) -> BatchFrame:
    step = shop.receive(frame, now_ms=NOW_MS)
    assert isinstance(step, BatchFrame)
    return step


def answer(shop: ParentSession, frame: str | bytes) -> Any:
    step = shop.receive(frame, now_ms=NOW_MS)
    assert isinstance(step, str)
    return json.loads(step)


def test_the_client_of_the_guide_is_served_from_connect_to_goodbye() -> None:
    shop = session()
    assert isinstance(shop.receive(GUIDE["connect"], now_ms=NOW_MS), ConnectMessage)
    assert json.loads(shop.say(STATUS))["connectedSources"] == 3
    batch = taken(shop, GUIDE["three changes"])
    ack = json.loads(shop.ack(batch, AckStatus.OK, entries=3, utilization=0.1, now_ms=NOW_MS, gauges=GAUGES))
    assert (ack["type"], ack["sequenceNumber"], ack["details"]["eventsProcessed"]) == ("ack", 0, 3)
    assert answer(shop, GUIDE["heartbeat"]) == {"type": "pong", "timestamp": NOW_MS, "serverTime": NOW_MS}
    assert isinstance(shop.receive(GUIDE["flush_request"], now_ms=NOW_MS), FlushRequestMessage)
    assert isinstance(shop.receive(GUIDE["disconnect"], now_ms=NOW_MS), DisconnectMessage)
    assert (shop.source, shop.dialect, shop.unanswered) == ("do-1", Dialect.DOLAKE, 0)


def test_a_batch_may_be_the_first_frame() -> None:
    shop = session()
    assert taken(shop, GUIDE["three changes"].encode()).entries == 3
    assert (shop.source, shop.dialect) == ("do-1", Dialect.DOLAKE)


def test_a_batch_without_events_is_acked() -> None:
    shop = session()
    batch = taken(shop, GUIDE["no events"])
    ack = json.loads(shop.ack(batch, AckStatus.OK, entries=batch.entries, utilization=0.0, now_ms=NOW_MS))
    assert ack["details"]["eventsProcessed"] == 0


def test_ping_is_answered_pong() -> None:
    assert session().receive("ping", now_ms=NOW_MS) == "pong"


@pytest.mark.parametrize("row", VECTORS["refused"], ids=[row["name"] for row in VECTORS["refused"]])
def test_a_mistake_is_answered_and_the_connection_lives(row: dict[str, Any]) -> None:
    shop = session()
    nack = answer(shop, row["text"])
    assert (nack["reason"], nack["shouldRetry"], nack["errorMessage"]) == ("invalid_format", False, row["said"])
    assert (nack["sequenceNumber"], nack.get("correlationId")) == (row["sequence"], row["correlation_id"])
    assert "retryDelayMs" not in nack
    assert (shop.refused, shop.size_violations) == (Reason.INVALID_FORMAT, 0)
    taken(shop, GUIDE["three changes"])
    assert shop.refused is None


def test_a_message_too_large_says_how_large_it_was_and_may_be() -> None:
    shop = session(limits=WireLimits(max_payload_size=KIB))
    text = message(event(after="x" * KIB))
    nack = answer(shop, text)
    assert (nack["reason"], nack["shouldRetry"]) == ("payload_too_large", False)
    assert (nack["maxSize"], nack["actualSize"], nack["receivedSize"]) == (KIB, len(text), len(text))
    assert (nack["sequenceNumber"], nack["correlationId"]) == (4, "c-4")


@pytest.mark.parametrize(
    ("limit", "reason"), [("max_event_size", "event_too_large"), ("max_events_per_message", "too_many_events")]
)
def test_an_event_too_large_and_events_too_many_refuse_the_whole_batch(limit: str, reason: str) -> None:
    shop = session(limits=WireLimits(**{limit: 1}))
    nack = answer(shop, message(event(), event()))
    assert (nack["reason"], nack["maxSize"], nack["shouldRetry"]) == (reason, 1, False)
    assert (nack["sequenceNumber"], nack["correlationId"], shop.unanswered) == (4, "c-4", 0)


def test_violations_of_size_are_counted_and_mistakes_are_not() -> None:
    shop = session(limits=WireLimits(max_payload_size=KIB, max_event_size=700, max_events_per_message=3))
    for text in (
        message(event(after="x" * KIB)),
        message(event(after="x" * 650)),
        message(*[event() for _ in range(4)]),
        message(7),
        message(event()),
    ):
        shop.receive(text, now_ms=NOW_MS)
    assert shop.size_violations == 3


def test_a_large_frame_that_shows_no_dialect_is_too_large_until_the_child_speaks_the_packages() -> None:
    shop = session(limits=WireLimits(max_payload_size=KIB))
    assert answer(shop, "x" * 2 * KIB)["reason"] == "payload_too_large"
    shop.receive(encode_message(ConnectMessage(timestamp=1, source_do_id="s")), now_ms=NOW_MS)
    assert answer(shop, "x" * 2 * KIB)["reason"] == "invalid_format"


@pytest.mark.parametrize("reason", [reason for reason in Reason if "too" not in reason])
def test_the_shells_refusals_carry_what_the_table_of_the_guide_wants(reason: Reason) -> None:
    shop = session()
    batch = taken(shop, GUIDE["three changes"])
    wait_ms = retry_delay_ms(reason, refusals=1, chance=0.5)
    text = shop.nack(batch, reason, "no", retry_delay_ms=wait_ms, now_ms=NOW_MS, max_size=9, gauges=GAUGES)
    nack = json.loads(text)
    assert (nack["reason"], nack["shouldRetry"], nack.get("retryDelayMs")) == (reason, wait_ms is not None, wait_ms)
    assert (nack["maxSize"], nack["rateLimit"], nack["sequenceNumber"]) == (9, RATE_LIMIT, 0)
    assert shop.unanswered == 0


def test_beyond_the_window_a_batch_is_refused_with_a_time_to_come_back() -> None:
    shop = session(window_batches_max=1)
    taken(shop, message(event()))
    nack = answer(shop, message(event(2), sequenceNumber=5))
    assert (nack["reason"], nack["sequenceNumber"], nack["retryDelayMs"]) == ("rate_limited", 5, 100)
    assert shop.refused is Reason.RATE_LIMITED


def test_each_batch_is_answered_in_its_own_dialect() -> None:
    shop = session()
    theirs, ours = taken(shop, message(event())), taken(shop, wire(1, run(1, 2)))
    texts = [shop.ack(batch, AckStatus.OK, entries=1, utilization=0.0, now_ms=NOW_MS) for batch in (theirs, ours)]
    assert ["eventsProcessed" in text for text in map(str, texts)] == [True, False]
    assert ["entriesProcessed" in text for text in map(str, texts)] == [False, True]


def test_the_package_hears_no_word_it_does_not_know() -> None:
    shop = session()
    hello = ConnectMessage(timestamp=1, source_do_id="s", capabilities=ClientCapabilities(binary_replies=True))
    shop.receive(encode_message(hello), now_ms=NOW_MS)
    assert shop.dialect is Dialect.RPC
    batch = taken(shop, wire(1, run(1, 2), correlation_id="c"))
    nack = decode_message(
        shop.nack(batch, Reason.LOAD_SHEDDING, "busy", retry_delay_ms=50, now_ms=NOW_MS, max_size=9, gauges=GAUGES)
    )
    assert (nack.reason, nack.retry_delay_ms) == (NackReason.RATE_LIMITED, 50)  # type: ignore[union-attr]
    assert shop.say(STATUS) == encode_message(STATUS)
    result = FlushResult(success=True, entries_flushed=3)
    response = FlushResponseMessage(timestamp=NOW_MS, result=result)
    assert shop.say(response) == encode_message(response)


def test_a_child_that_may_be_either_hears_both_words() -> None:
    hello = ConnectMessage(timestamp=1, source_do_id="s", capabilities=ClientCapabilities(binary_protocol=False))
    shop = session()
    shop.receive(encode_message(hello), now_ms=NOW_MS)
    said = json.loads(shop.say(STATUS))
    assert (said["connectedSources"], said["connectedChildren"]) == (3, 3)
    assert (said["buffer"]["eventCount"], said["buffer"]["entryCount"]) == (4, 4)
    result = FlushResult(success=True, entries_flushed=3)
    said = json.loads(shop.say(FlushResponseMessage(timestamp=NOW_MS, correlation_id="c", result=result)))
    assert (said["result"]["eventsFlushed"], said["result"]["entriesFlushed"]) == (3, 3)


def test_a_child_that_said_it_speaks_binary_and_then_sends_events_hears_of_events() -> None:
    shop = session()
    shop.receive(encode_message(ConnectMessage(timestamp=1, source_do_id="s")), now_ms=NOW_MS)
    shop.receive(GUIDE["heartbeat"], now_ms=NOW_MS)
    assert "connectedSources" in shop.say(STATUS)
