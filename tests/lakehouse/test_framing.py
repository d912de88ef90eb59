import pytest

from lakehouse.parent import framing
from lakehouse.parent.framing import BINARY, ODD, PONG, TEXT
from tests.acceptance import raw_socket

SIZES = [0, 1, 125, 126, 65_535, 65_536]


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_frame_is_measured_where_it_stands(size):
    frame = raw_socket.framed(bytes(size))
    assert framing.head(b"before" + frame, 6) == (BINARY, 6 + len(frame) - size - 4, 6 + len(frame))


@pytest.mark.parametrize("size", SIZES)
def test_a_head_that_is_cut_off_waits_for_its_rest(size):
    frame = raw_socket.framed(bytes(size))
    size_bytes = {126: 2, 65_535: 2, 65_536: 8}.get(size, 0)
    for cut in range(2 + size_bytes):
        assert framing.head(frame[:cut], 0) is None
    assert framing.head(frame[: 2 + size_bytes], 0) == (BINARY, 2 + size_bytes, len(frame))


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"\x01\x80", id="the first part of a text"),
        pytest.param(b"\x80\x80", id="the last part of a message"),
        pytest.param(b"\x89\x80", id="a ping"),
        pytest.param(b"\x88\x80", id="a goodbye"),
        pytest.param(b"\xc1\x80", id="compressed"),
        pytest.param(b"\x83\x80", id="of no known kind"),
        pytest.param(b"\x81\x05", id="not masked"),
        pytest.param(b"\x81\xfe\x00\x05", id="5 in two bytes"),
        pytest.param(b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff", id="65535 in eight bytes"),
        pytest.param(b"\x8a\xfe\x01\x00", id="a pong of 256 bytes"),
    ],
)
def test_what_is_not_plain_is_odd(start):
    assert framing.head(start + bytes(20), 0)[0] == ODD


def test_a_pong_is_known_by_its_head():
    assert framing.head(raw_socket.framed(b"1234", raw_socket.PONG), 0) == (PONG, 2, 10)


@pytest.mark.parametrize("size", SIZES)
def test_frames_that_go_say_their_size_in_as_few_bytes_as_it_needs(size):
    head, content = framing.framed("x" * size)
    assert head[0] == TEXT
    assert content == b"x" * size
    assert head[1:] == raw_socket.framed("x" * size)[1 : len(head)].replace(bytes([head[1] | 0x80]), head[1:2], 1)


def test_text_and_bytes_go_as_what_they_are():
    assert framing.framed("é") == (b"\x81\x02", "é".encode())
    assert framing.framed(b"\xff") == (b"\x82\x01", b"\xff")
