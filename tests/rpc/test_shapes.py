import pytest

from rpc import arrow_payload, batch, columns, msgpack_payload
from rpc.entries import RawEntry, to_wal
from rpc.negotiation import LAYOUTS, PayloadEncoding
from rpc.outbox import Outbox
from rpc.shapes import Shaped, shape_of
from tests.builders import NOW_MS, entry, run

PLAIN = columns.encode(run(1, 3))
OTHERS = [PayloadEncoding.MSGPACK, PayloadEncoding.ARROW]
CUT = {"entries_max": 100, "bytes_max": 10**6}


def test_columns_need_no_shape():
    assert shape_of(PayloadEncoding.COLUMNS) is None


@pytest.mark.parametrize("encoding", OTHERS)
def test_the_same_entries_come_out_of_every_payload(encoding):
    shaped = shape_of(encoding)(PLAIN)
    assert shaped.encoding is encoding
    frame = batch.encode(
        shaped.payload, encoding=LAYOUTS[encoding], entry_count=3, source="s", sequence=1, timestamp_ms=NOW_MS
    )
    arrived = batch.read(frame, documents=True)
    found = arrow_payload.decode(arrived.payload)
    assert found == [to_wal(one) for one in run(1, 3)]


@pytest.mark.parametrize("encoding", OTHERS)
def test_what_does_not_fit_another_payload_stays_columns(encoding):
    odd = columns.encode([RawEntry(1, NOW_MS, 0, b"t", b"r", b"", b'{"a": broken')])
    assert shape_of(encoding)(odd) == Shaped(PayloadEncoding.COLUMNS, odd)


@pytest.mark.parametrize("encoding", OTHERS)
def test_a_retry_after_a_restart_is_the_same_bytes(tmp_path, encoding):
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        outbox.append(run(1, 5))
        cut = outbox.cut(**CUT, shape=shape_of(encoding))
        outbox.append([entry(6)])
        outbox.cut(**CUT)
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        assert outbox.unacked()[0] == cut
        assert cut.encoding is encoding
        assert [one.encoding for one in outbox.unacked()] == [encoding, PayloadEncoding.COLUMNS]


def test_a_refused_batch_of_another_payload_can_be_sent_again(tmp_path):
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        outbox.append(run(1, 5))
        outbox.cut(**CUT, shape=shape_of(PayloadEncoding.ARROW))
        outbox.reject(1, "no")
        [letter] = outbox.dead_letters()
        assert [one.after for one in columns.decode(letter.payload).entries()] == [one.after for one in run(1, 5)]
        assert outbox.revive(1) == 5


@pytest.mark.parametrize(
    "text",
    [
        b'{"price":12345678901234567890.123456789,"part":0.1,"huge":1e999,"tiny":-1e-400,"count":100000000000000000000000}',
        b'{"price":0.30000000000000000001,"none":NaN}',
    ],
)
def test_a_number_in_msgpack_keeps_every_digit_it_had(text):
    shaped = shape_of(PayloadEncoding.MSGPACK)(columns.encode([entry(1)._replace(after=text)]))
    assert shaped.encoding is PayloadEncoding.MSGPACK
    assert columns.decode(msgpack_payload.to_columns(shaped.payload)).afters.tobytes() == text


@pytest.mark.parametrize("value", [b'"' + b"x" * 1024 * 1024 + b'"', b"[" + b"0.1," * 200_000 + b"1]"])
def test_a_row_that_a_parent_takes_in_no_msgpack_travels_in_columns_and_is_no_dead_letter(value):
    payload = columns.encode([entry(1)._replace(after=b'{"x":' + value + b"}")])
    assert shape_of(PayloadEncoding.MSGPACK)(payload) == Shaped(PayloadEncoding.COLUMNS, payload)
