"""Answers as DoSQL's integration guide reads them, and those that both dialects read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rpc.dolake import replying
from rpc.dolake.refusals import Gauges, Reason, Refusal
from rpc.echo import Echo
from rpc.messages import AckStatus, BufferStats, FlushResponseMessage, FlushResult, ParentState, StatusMessage
from rpc.protocol import decode_message
from tests.builders import NOW_MS, frame, run

GAUGES = Gauges(
    limit=50,
    remaining_tokens=49,
    bucket_capacity=50,
    reset_at_s=1_700_000_001,
    time_until_flush_ms=30_000,
    circuit_breaker_state="closed",
)
RATE_LIMIT = {"limit": 50, "remaining": 49, "resetAt": 1_700_000_001}


def acked(utilization: float = 0.25, gauges: Gauges | None = GAUGES, correlation_id: str | None = "c") -> Any:
    batch = frame(7, run(1, 2), correlation_id=correlation_id)
    text = replying.ack(batch, AckStatus.OK, entries=2, utilization=utilization, gauges=gauges, now_ms=NOW_MS)
    return json.loads(text)


def nacked(refusal: Refusal) -> Any:
    return json.loads(replying.nack(refusal, Echo(7, "c"), now_ms=NOW_MS))


def test_an_ack_tells_everything_the_guide_lists() -> None:
    assert acked() == {
        "type": "ack",
        "timestamp": NOW_MS,
        "correlationId": "c",
        "sequenceNumber": 7,
        "status": "ok",
        "details": {
            "eventsProcessed": 2,
            "bufferUtilization": 0.25,
            "timeUntilFlush": 30_000,
            "remainingTokens": 49,
            "bucketCapacity": 50,
            "circuitBreakerState": "closed",
        },
        "rateLimit": RATE_LIMIT,
    }


def test_an_ack_invents_nothing() -> None:
    ack = acked(gauges=None, correlation_id=None)
    assert ack["details"] == {"eventsProcessed": 2, "bufferUtilization": 0.25}
    assert set(ack) == {"type", "timestamp", "sequenceNumber", "status", "details"}


@pytest.mark.parametrize(("utilization", "delay_ms"), [(0.0, None), (0.8, None), (0.801, 400), (0.95, 475), (1.0, 500)])
def test_a_buffer_that_fills_up_asks_for_a_pause(utilization: float, delay_ms: int | None) -> None:
    assert acked(utilization)["details"].get("suggestedDelayMs") == delay_ms


def test_a_refusal_says_whether_and_when_to_try_again() -> None:
    refusal = Refusal(Reason.RATE_LIMITED, "too much", 200, gauges=GAUGES)
    assert nacked(refusal) == {
        "type": "nack",
        "timestamp": NOW_MS,
        "correlationId": "c",
        "sequenceNumber": 7,
        "reason": "rate_limited",
        "errorMessage": "too much",
        "shouldRetry": True,
        "retryDelayMs": 200,
        "rateLimit": RATE_LIMIT,
    }


def test_a_refusal_for_size_says_what_came_and_what_may() -> None:
    nack = nacked(Refusal(Reason.PAYLOAD_TOO_LARGE, "large", max_size=4, received_size=5))
    assert (nack["maxSize"], nack["actualSize"], nack["receivedSize"]) == (4, 5, 5)
    assert (nack["shouldRetry"], "retryDelayMs" in nack) == (False, False)
    nack = nacked(Refusal(Reason.EVENT_TOO_LARGE, "large", max_size=4))
    assert (nack["maxSize"], "actualSize" in nack) == (4, False)


def test_a_status_is_understood_by_both() -> None:
    buffer = BufferStats(batch_count=1, entry_count=5, total_size_bytes=9, utilization=0.5, oldest_batch_time=NOW_MS)
    message = StatusMessage(timestamp=NOW_MS, state=ParentState.RECEIVING, buffer=buffer, connected_children=3)
    text = replying.status(message)
    assert decode_message(text) == message
    said = json.loads(text)
    assert (said["type"], said["state"], said["connectedSources"]) == ("status", "receiving", 3)
    assert said["buffer"] == {
        "batchCount": 1,
        "entryCount": 5,
        "eventCount": 5,
        "totalSizeBytes": 9,
        "utilization": 0.5,
        "oldestBatchTime": NOW_MS,
    }


def test_a_flush_response_is_understood_by_both() -> None:
    result = FlushResult(success=True, batches_flushed=2, entries_flushed=9, paths=["a"])
    message = FlushResponseMessage(timestamp=NOW_MS, correlation_id="c", result=result)
    text = replying.flush_response(message)
    assert decode_message(text) == message
    said = json.loads(text)["result"]
    assert (said["eventsFlushed"], said["entriesFlushed"], said["batchesFlushed"]) == (9, 9, 2)
    assert "error" not in said
