import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.parent import edge_events
from lakehouse.parent.edge_events import CLOSE_REASON_BYTES_MAX, EVENTS_MAX, Event, Kind, NotEvents, close, order, say

EVENTS = st.lists(st.builds(Event, st.sampled_from(Kind), st.binary(max_size=300)), max_size=20)


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"", []),
        (b"OPEN\r\n", [Event(Kind.OPEN)]),
        (b"TEXT 5\r\nhello\r\n", [Event(Kind.TEXT, b"hello")]),
        (b"TEXT 0\r\n\r\n", [Event(Kind.TEXT)]),
        (b"TEXT\r\n", [Event(Kind.TEXT)]),
        (b"BINARY a\r\n\xc2\xcd\r\nOPEN\r\n\r\n", [Event(Kind.BINARY, b"\xc2\xcd\r\nOPEN\r\n")]),
        (b"BINARY 0A\r\n0123456789\r\nPING\r\n", [Event(Kind.BINARY, b"0123456789"), Event(Kind.PING)]),
        (b"CLOSE 2\r\n\x03\xe8\r\nDISCONNECT\r\n", [Event(Kind.CLOSE, b"\x03\xe8"), Event(Kind.DISCONNECT)]),
    ],
)
def test_a_body_is_read_as_pushpin_writes_it(body, events):
    assert edge_events.read(body) == events


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"HELLO\r\n", "byte 0: b'HELLO\\r\\n' begins no event"),
        (b"OPEN", "byte 0: b'OPEN' begins no event"),
        (b"OPEN\r\n\r\n", "byte 6: b'\\r\\n' begins no event"),
        (b"TEXT 5\r\nhell", "byte 0: no line end after the 5 bytes"),
        (b"TEXT 4\r\nhello\r\n", "byte 0: no line end after the 4 bytes"),
        (b"TEXT ffffffff\r\n", "no line end after the 4294967295 bytes"),
        (b"TEXT 100000000\r\n", "begins no event"),
        (b"TEXT -1\r\n", "begins no event"),
        (b"TEXT +5\r\nhello\r\n", "begins no event"),
        (b"TEXT 5 \r\nhello\r\n", "begins no event"),
        (b"TEXT  5\r\nhello\r\n", "begins no event"),
        (b"text 5\r\nhello\r\n", "begins no event"),
        (b"TEXT 5\nhello\n", "begins no event"),
        (b"OPEN" + b" " * 100 + b"\r\n", "begins no event"),
        (b"OPEN\r\n" * (EVENTS_MAX + 1), f"more than {EVENTS_MAX} events"),
    ],
)
def test_what_is_no_body_says_where_it_stops_being_one(body, said):
    with pytest.raises(NotEvents) as raised:
        edge_events.read(body)
    assert said in str(raised.value)


@given(EVENTS)
def test_what_is_written_is_read_again(events):
    assert edge_events.read(edge_events.write(events)) == events


@given(st.binary(max_size=200))
def test_any_bytes_are_events_or_none(body):
    try:
        events = edge_events.read(body)
    except NotEvents:
        return
    assert edge_events.read(edge_events.write(events)) == events


@given(EVENTS, st.data())
def test_a_body_cut_off_or_changed_never_crashes(events, data):
    body = bytearray(edge_events.write(events))
    for _ in range(data.draw(st.integers(0, 3))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    try:
        read = edge_events.read(cut)
    except NotEvents:
        return
    assert sum(len(event.content) for event in read) <= len(cut)


def test_frames_come_out_as_they_went_in():
    for frame in ("", "ping", '{"type":"connect"}', "ä\r\n", b"", b"\xc2\xcd\x00"):
        assert say(frame).frame == frame


def test_a_text_that_is_none_is_told():
    with pytest.raises(NotEvents, match="a text of 2 bytes is not UTF-8"):
        _ = Event(Kind.TEXT, b"\xff\xfe").frame


def test_no_answer_is_mistaken_for_an_order_to_the_proxy():
    assert order(type="keep-alive", timeout=20).content == b'c:{"type":"keep-alive","timeout":20}'
    with pytest.raises(AssertionError):
        say('c:{"type":"detach"}')
    assert say(b"c:{}") == Event(Kind.BINARY, b"c:{}")


@pytest.mark.parametrize("reason", ["", "bad", "x" * 200, "ä" * 100])
def test_a_close_frame_holds_its_code_and_what_fits_of_the_reason(reason):
    content = close(1013, reason).content
    assert content[:2] == b"\x03\xf5"
    assert reason.startswith(content[2:].decode())
    assert len(content) - 2 >= min(len(reason.encode()), CLOSE_REASON_BYTES_MAX - 1)
    assert len(content) <= 125
