"""Any bytes are answered: by a nack, or handed on as a message, within bounded memory; never by another exception."""

from __future__ import annotations

import json
import random
import tracemalloc
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rpc.batch import BatchFrame
from rpc.dolake.limits import WireLimits
from rpc.session import ParentSession
from tests.builders import NOW_MS
from tests.repetition import at_length
from tests.rpc.test_dolake_reading import event, message
from tests.rpc.test_fuzz import JSON, mutated

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "dolake.json").read_text())
GROUPS = ("batches", "batches", "batches", "messages", "refused")
TEXTS = [row["text"] for group in GROUPS for row in VECTORS[group]]
MIB = 1024 * 1024
LIMITS = WireLimits(max_payload_size=750, max_events_per_message=3, max_event_size=150)


def fate(data: str | bytes, limits: WireLimits = LIMITS) -> str:
    """What a new connection makes of these bytes: the reason of a nack, or that they are a message."""
    shop = ParentSession(source=None, window_batches_max=10, limits=limits)
    step = shop.receive(data, now_ms=NOW_MS)
    if isinstance(step, BatchFrame):
        assert shop.unanswered == 1
        return "batch"
    if not isinstance(step, str) or step == "pong":
        return "message"
    said = json.loads(step)
    assert said["type"] in ("nack", "pong")
    if said["type"] == "nack":
        assert said["errorMessage"]
        assert 0 <= said["sequenceNumber"] < 2**64
        assert not said["shouldRetry"]
        return str(said["reason"])
    return "message"


def test_thousands_of_mutated_frames_are_messages_or_nacks() -> None:
    chance = random.Random(19_700_101)
    fates: dict[str, int] = {}
    for number, text in enumerate(islice(cycle(TEXTS), 20_000)):
        data: str | bytes = mutated(text.encode(), chance)
        if number % 2:
            data = data.decode("utf-8", "surrogateescape")
        found = fate(data)
        fates[found] = fates.get(found, 0) + 1
    # All of it happens a lot, so the mutations are neither harmless nor all stopped at the first byte.
    assert fates["batch"] > 300
    assert fates["message"] > 100
    assert fates["invalid_format"] > 5_000
    assert set(fates) == {
        "batch",
        "message",
        "invalid_format",
        "payload_too_large",
        "event_too_large",
        "too_many_events",
    }


FIELDS = ["events", "entries", "timestamp", "sourceDoId", "sourceShardName", "sequenceNumber", "correlationId"]
FIELDS += ["firstEventSequence", "sizeBytes", "isRetry", "retryCount", "capabilities", "pendingEvents", "epoch"]
OF_AN_EVENT = ["sequence", "timestamp", "operation", "table", "rowId", "before", "after", "metadata"]
TYPES = ["connect", "cdc_batch", "heartbeat", "flush_request", "disconnect", "ack", "status"]


@settings(max_examples=at_length(400), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300) | st.text(max_size=100))
@example("\ud800")
@example('{"events":')
@example('{"type":"cdc_batch","events":[{"table":"\ud800"}]}')
@example(b'{"type":"cdc_batch","correlationId":"\xff","events":[]}')
def test_no_bytes_raise_anything_else(data: str | bytes) -> None:
    fate(data)


@settings(max_examples=at_length(600), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(TYPES),
    st.dictionaries(st.sampled_from(FIELDS), JSON),
    st.dictionaries(st.sampled_from(OF_AN_EVENT), JSON),
)
def test_no_json_of_the_right_names_raises_anything_else(
    kind: str, fields: dict[str, Any], of_an_event: dict[str, Any]
) -> None:
    fate(json.dumps(json.loads(message(event(), event() | of_an_event)) | fields | {"type": kind}))


DEEP = 100_000
HEAD = b'{"type":"cdc_batch","timestamp":1,"correlationId":"c","sourceDoId":"s","sequenceNumber":1,"events":['
TRAPS = {
    "deep list": HEAD + b"[" * DEEP,
    "deep value": HEAD + b'{"sequence":1,"after":' + b"[" * DEEP,
    "deep unknown": b'{"events":' + b'{"x":' * DEEP,
    "numbers for events": HEAD + b"1," * MIB + b"1]}",
    "empty objects for events": HEAD + b"{}," * 80_000 + b"{}]}",
    "the same key again and again": b"{" + b'"events":[],' * 100_000 + b'"x":1}',
    "quotes": b'"events' * 500_000,
    "brackets": HEAD + b"]" * MIB,
    "digits without end": HEAD + b'{"sequence":' + b"1" * MIB + b"}]}",
    "an unknown operation without end": HEAD + b'{"operation":"' + b"x" * MIB + b'"}]}',
    "white space": HEAD + b" " * 3 * MIB,
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_costs_little(name: str) -> None:
    for data in (TRAPS[name], TRAPS[name].decode()):
        tracemalloc.start()
        try:
            assert fate(data, WireLimits()) == "invalid_format"
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB + 3 * len(data)
        finally:
            tracemalloc.stop()
