import pytest
from msgspec import UNSET

from rpc.batch import Flag, read
from rpc.columns import encode
from rpc.compression import Compression
from rpc.config import ChildConfig
from rpc.errors import ProtocolError
from rpc.messages import (
    AckDetails,
    AckMessage,
    AckStatus,
    BufferStats,
    NackMessage,
    NackReason,
    PongMessage,
    StatusMessage,
)
from rpc.negotiation import PayloadEncoding, accept
from rpc.protocol import decode_message, encode_message
from rpc.session import ChildSession, Persisted, Refusal, Resolved, Welcome
from tests.builders import NOW_MS, run

PAYLOAD = encode(run(1, 3))


def session(**config):
    child = ChildSession(child_id="shop-1", epoch=7, config=ChildConfig(**config))
    child.hello(last_ack_sequence=0, now_ms=NOW_MS)
    return child


def send(child, sequence, now_ms=NOW_MS):
    return child.batch(sequence, PAYLOAD, entries=3, now_ms=now_ms)


def hear(child, message, now_ms=NOW_MS):
    return child.receive(encode_message(message, binary=False), now_ms=now_ms, chance=0.5)


def ack(sequence, status=AckStatus.OK, utilization=0.5):
    details = AckDetails(entries_processed=3, buffer_utilization=utilization)
    return AckMessage(timestamp=1, sequence_number=sequence, status=status, details=details)


def nack(sequence, reason=NackReason.BUFFER_FULL, *, retry=True, delay_ms=UNSET):
    return NackMessage(
        timestamp=1,
        sequence_number=sequence,
        reason=reason,
        error_message="no",
        should_retry=retry,
        retry_delay_ms=delay_ms,
    )


def test_hello_names_the_child_and_the_life_of_its_outbox():
    child = ChildSession(child_id="shop-1", epoch=7, config=ChildConfig(), shard="eu")
    hello = decode_message(child.hello(last_ack_sequence=4, now_ms=NOW_MS))
    assert (hello.source_do_id, hello.source_shard_name, hello.epoch, hello.last_ack_sequence) == ("shop-1", "eu", 7, 4)


def test_a_batch_is_sent_with_a_checksum_to_be_trusted():
    frame = send(session(), 1)
    assert frame[4] & Flag.STRICT_CRC
    assert read(frame).sequence == 1


def test_an_ack_resolves_its_batch_once():
    child = session()
    send(child, 1)
    assert hear(child, ack(1)) == Resolved(1, AckStatus.OK, 0.5)
    assert hear(child, ack(1)) is None
    assert child.on_the_wire == 0


def test_the_window_is_bounded_and_opens_with_the_answers():
    child = session(max_pending_batches=2)
    send(child, 1)
    send(child, 2)
    assert child.room(now_ms=NOW_MS) == 0
    hear(child, ack(2))
    assert child.room(now_ms=NOW_MS) == 1


def test_a_batch_without_an_answer_is_sent_again_under_the_same_sequence():
    child = session(ack_timeout_ms=1000)
    send(child, 1)
    assert child.overdue(now_ms=NOW_MS + 999) == []
    assert child.overdue(now_ms=NOW_MS + 1000) == [1]
    again = read(send(child, 1, NOW_MS + 1000))
    assert (again.sequence, again.is_retry) == (1, True)


def test_a_batch_out_of_retries_means_a_dead_connection():
    child = session(ack_timeout_ms=1000, max_retries=2)
    for attempt in range(3):
        send(child, 1, NOW_MS + attempt)
    assert not child.is_dead(now_ms=NOW_MS + 1000)
    assert child.is_dead(now_ms=NOW_MS + 1002)


def test_a_full_parent_pauses_all_sending_for_the_time_it_gives():
    child = session()
    send(child, 1)
    assert hear(child, nack(1, delay_ms=5000)) == Refusal(1, NackReason.BUFFER_FULL, "no", final=False)
    assert child.room(now_ms=NOW_MS + 4999) == 0
    assert child.overdue(now_ms=NOW_MS + 4999) == []
    assert child.due_in_ms(now_ms=NOW_MS) == 5000
    assert child.overdue(now_ms=NOW_MS + 5000) == [1]


def test_a_child_that_was_told_to_wait_sends_one_by_one_until_the_parent_has_room_again():
    child = session()
    for sequence in (1, 2, 3):
        send(child, sequence)
        hear(child, nack(sequence, delay_ms=1000))
    assert child.is_paused
    later = NOW_MS + 2000
    assert (child.overdue(now_ms=later), child.room(now_ms=later)) == ([1], 0)
    send(child, 1, later)
    assert child.overdue(now_ms=later) == []
    assert child.due_in_ms(now_ms=later) > 0
    hear(child, ack(1, utilization=0.5), later)
    assert child.overdue(now_ms=later) == [2]
    send(child, 2, later)
    hear(child, ack(2, utilization=0.49), later)
    assert not child.is_paused
    assert child.overdue(now_ms=later) == [3]
    assert child.room(now_ms=later) > 50


def test_a_patient_child_outlives_any_number_of_full_buffers():
    child = session(max_retries=1)
    now_ms = NOW_MS
    for _ in range(20):
        send(child, 1, now_ms)
        hear(child, nack(1, delay_ms=1000), now_ms)
        now_ms += 1000
        assert not child.is_dead(now_ms=now_ms)


def test_a_final_refusal_ends_the_batch():
    child = session()
    send(child, 1)
    assert hear(child, nack(1, NackReason.INVALID_FORMAT, retry=False)).final
    assert child.on_the_wire == 0


def test_a_child_that_wants_nothing_special_offers_nothing():
    child = ChildSession(child_id="shop-1", epoch=7, config=ChildConfig())
    capabilities = decode_message(child.hello(last_ack_sequence=0, now_ms=NOW_MS)).capabilities
    assert (capabilities.encodings, capabilities.compressions) == (UNSET, UNSET)


def test_what_both_sides_know_is_sent_from_the_welcome_on():
    child = session(encoding="arrow", compression="zstd")
    capabilities = decode_message(child.hello(last_ack_sequence=0, now_ms=NOW_MS)).capabilities
    accepted = accept(capabilities, has_epoch=True)
    buffer = BufferStats(batch_count=0, entry_count=0, total_size_bytes=0, utilization=0.0)
    assert not send(child, 1)[4] & Flag.COMPRESSED
    status = StatusMessage(timestamp=1, state="idle", buffer=buffer, connected_children=1, **accepted._asdict())
    hear(child, status)
    assert child.terms == (PayloadEncoding.ARROW, Compression.ZSTD)
    long = encode(run(1, 100))
    frame = child.batch(2, long, entries=100, now_ms=NOW_MS)
    assert frame[4] & Flag.COMPRESSED
    assert read(frame).payload == long


def test_a_payload_the_parent_does_not_take_any_more_is_not_sent():
    with pytest.raises(ProtocolError, match="cut with an arrow payload, which this parent does not take"):
        session().batch(1, PAYLOAD, entries=3, now_ms=NOW_MS, encoding=PayloadEncoding.ARROW)


def test_a_batch_that_was_cut_for_another_parent_is_offered_as_it_is():
    child = ChildSession(child_id="shop-1", epoch=7, config=ChildConfig(), kept={PayloadEncoding.ARROW})
    capabilities = decode_message(child.hello(last_ack_sequence=0, now_ms=NOW_MS)).capabilities
    assert capabilities.encodings == ["columns", "arrow"]
    accepted = accept(capabilities, has_epoch=True)
    buffer = BufferStats(batch_count=0, entry_count=0, total_size_bytes=0, utilization=0.0)
    hear(child, StatusMessage(timestamp=1, state="idle", buffer=buffer, connected_children=1, **accepted._asdict()))
    assert child.terms.encoding is PayloadEncoding.COLUMNS
    child.batch(1, PAYLOAD, entries=3, now_ms=NOW_MS, encoding=PayloadEncoding.ARROW)


def test_an_ack_persisted_after_the_ack_says_where_the_batch_is():
    child = session()
    asked = decode_message(child.persisted_request(1, now_ms=NOW_MS))
    assert (asked.source_do_id, asked.sequence_number) == ("shop-1", 1)
    details = AckDetails(entries_processed=0, buffer_utilization=0.0, persisted_path="s3://lake/v3.json")
    heard = AckMessage(timestamp=1, sequence_number=1, status=AckStatus.PERSISTED, details=details)
    assert hear(child, heard) == Persisted(1, "s3://lake/v3.json")


def test_a_refusal_of_something_unreadable_is_reported():
    with pytest.raises(ProtocolError, match="did not understand"):
        hear(session(), nack(0, NackReason.INVALID_FORMAT, retry=False))


def test_a_welcome_tells_where_to_resume():
    buffer = {"batch_count": 0, "entry_count": 0, "total_size_bytes": 0, "utilization": 0.0}
    status = decode_message(
        '{"type":"status","timestamp":1,"state":"idle","connectedChildren":1,"resumeSequence":41,'
        '"buffer":{"batchCount":0,"entryCount":0,"totalSizeBytes":0,"utilization":0}}'
    )
    assert isinstance(status, StatusMessage)
    assert hear(session(), status) == Welcome(status, 41, 41)
    assert status.buffer.batch_count == buffer["batch_count"]


def test_silence_asks_for_a_heartbeat_and_its_silence_for_a_new_connection():
    child = session(heartbeat_interval_ms=1000, heartbeat_timeout_ms=300)
    assert not child.wants_heartbeat(now_ms=NOW_MS + 999)
    assert child.wants_heartbeat(now_ms=NOW_MS + 1000)
    child.heartbeat(last_ack_sequence=0, pending_entries=0, now_ms=NOW_MS + 1000)
    assert not child.wants_heartbeat(now_ms=NOW_MS + 1001)
    assert not child.is_dead(now_ms=NOW_MS + 1299)
    assert child.is_dead(now_ms=NOW_MS + 1300)
    hear(child, PongMessage(timestamp=1, server_time=2), NOW_MS + 1300)
    assert not child.is_dead(now_ms=NOW_MS + 1300)
    assert child.due_in_ms(now_ms=NOW_MS + 1300) == 1000
