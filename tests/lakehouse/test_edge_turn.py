import pytest

from lakehouse.parent import edge_events
from lakehouse.parent.edge_events import Event, Kind, say
from lakehouse.parent.edge_turn import answers_asleep
from rpc.messages import HeartbeatMessage
from rpc.protocol import decode_message, encode_message
from tests.builders import NOW_MS, run, wire

HEARTBEAT = say(
    encode_message(HeartbeatMessage(timestamp=7, source_do_id="shop-1", last_ack_sequence=0, pending_entries=0))
)


def test_nothing_said_is_nothing_to_wake_for():
    assert answers_asleep([], now_ms=NOW_MS) == []


def test_pings_and_heartbeats_wake_nobody():
    events = [Event(Kind.PING, b"a"), say("ping"), Event(Kind.PONG, b"b"), HEARTBEAT]
    ping, pong, beat = answers_asleep(events, now_ms=NOW_MS)
    assert (ping, pong) == (Event(Kind.PONG, b"a"), say("pong"))
    assert (decode_message(beat.frame).timestamp, decode_message(beat.frame).server_time) == (7, NOW_MS)


@pytest.mark.parametrize(
    "event",
    [
        say(wire(1, run(1, 1))),
        say('{"type":"connect"}'),
        say(b"ping"),
        Event(Kind.TEXT, b"\xff"),
        Event(Kind.TEXT),
        Event(Kind.CLOSE),
        Event(Kind.DISCONNECT),
        Event(Kind.OPEN),
    ],
)
def test_anything_else_among_them_wakes(event):
    assert answers_asleep([say("ping"), event], now_ms=NOW_MS) is None


def test_a_close_frame_of_ours_has_a_code_and_a_reason():
    assert edge_events.write([edge_events.close(1013, "later")]) == b"CLOSE 7\r\n\x03\xf5later\r\n"
