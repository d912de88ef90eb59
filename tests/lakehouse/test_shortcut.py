"""The shorter way through a real daphne: what comes whole is served at once, and the rules of WebSockets hold."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.raw_socket import CLOSE, PING, PONG, TEXT, Closed, RawSocket, framed
from tests.services import free_port

ROOT = Path(__file__).resolve().parents[2]
SITE = "tests.lakehouse.shortcut_site:application"
FRAME_BYTES_MAX = 100_000
FIRST_PART, LAST_PART = 0x01, 0x80


@pytest.fixture(scope="module")
def daphne(tmp_path_factory):
    port = free_port()
    command = [sys.executable, "-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", str(port)]
    for name in ("message", "frame"):
        command += [f"--websocket-max-{name}-size", str(FRAME_BYTES_MAX)]
    log = tmp_path_factory.mktemp("daphne") / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen([*command, SITE], cwd=ROOT, stdout=output, stderr=output) as process,
    ):
        try:
            while not listens(port):
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
    assert "Traceback" not in log.read_text()


def part(start, text):
    return bytes([start]) + framed(text)[1:]


def listens(port):
    try:
        RawSocket(port).drop()
    except OSError:
        return False
    return True


@pytest.fixture
def child(daphne):
    with RawSocket(daphne) as opened:
        assert opened.status == 101
        yield opened


@pytest.fixture
def doubted(daphne):
    """Pinged when it is silent, and hung up on when it answers no ping."""
    with RawSocket(daphne, "/doubted") as opened:
        assert opened.status == 101
        yield opened


def test_frames_that_come_alone_are_served_at_once(child):
    for frame in ("", "é" * 60, "x" * 126, "x" * 70_000):
        child.say(frame)
        assert child.hear() == f"at once: {frame}"
    for size in (1, 125, 126, 65_535, 65_536, FRAME_BYTES_MAX - 14):
        child.say(os.urandom(size))
        assert len(child.hear()) == size


def test_a_mask_is_taken_off(child):
    content, mask = b"hello", b"\x01\x02\x03\x04"
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(content))
    child.socket.sendall(b"\x81\x85" + mask + masked)
    assert child.hear() == "at once: hello"


def test_many_frames_of_one_packet_are_answered_in_their_order(child):
    child.socket.sendall(b"".join(framed(str(number)) for number in range(500)))
    assert [child.hear() for _ in range(500)] == [f"at once: {number}" for number in range(500)]


def test_a_frame_may_come_byte_by_byte(child):
    frames = framed("slow") + framed(bytes(range(200)))
    for byte in frames:
        child.socket.sendall(bytes([byte]))
    assert child.hear() == "at once: slow"
    assert child.hear() == bytes(range(200))


def test_what_comes_while_another_frame_is_awaited_waits_behind_it(child):
    child.socket.sendall(framed("first") + framed("wait") + framed("second") + framed("third"))
    assert [child.hear() for _ in range(4)] == ["at once: first", "waited", "queued: second", "queued: third"]
    child.say("fourth")
    assert child.hear() == "at once: fourth"


def test_a_message_in_parts_is_put_together_and_the_next_one_is_whole_again(child):
    child.socket.sendall(part(FIRST_PART, "one, ") + part(LAST_PART, "two"))
    assert child.hear() == "queued: one, two"
    child.say("three")
    assert child.hear() == "at once: three"


def test_a_ping_between_the_parts_of_a_message_is_answered(child):
    child.socket.sendall(part(FIRST_PART, "one, ") + framed(b"are you there?", PING))
    assert child._file.read(2 + 14) == b"\x8a\x0eare you there?"
    child.socket.sendall(part(LAST_PART, "two"))
    assert child.hear() == "queued: one, two"


def test_a_text_that_is_none_ends_the_connection(child):
    child.say(b"\xff\xfe", TEXT)
    assert child.hear() == Closed()


@pytest.mark.parametrize("start", [b"\x81\x05hello", b"\xc1\x80\0\0\0\0", b"\x83\x80\0\0\0\0"])
def test_what_breaks_the_rules_ends_the_connection(child, start):
    child.socket.sendall(start)
    assert child.hear() == Closed()


def test_a_frame_that_is_too_large_ends_the_connection_before_it_has_come(child):
    child.socket.sendall(framed(bytes(FRAME_BYTES_MAX + 1))[:20])
    assert child.hear() == Closed()


@pytest.mark.parametrize("in_parts", [False, True])
def test_who_begins_a_message_when_too_many_have_not_ended_is_let_go(daphne, child, in_parts):
    content = "x" * (FRAME_BYTES_MAX - 14)
    if in_parts:
        child.socket.sendall(part(FIRST_PART, content) + framed("", PING))
        assert child._file.read(2) == b"\x8a\x00"
    else:
        child.socket.sendall(framed(content)[:-1])
    with RawSocket(daphne) as other, suppress(ConnectionResetError):
        other.socket.sendall(framed(content)[:-1])
        assert other._file.read(1) == b""
    child.socket.sendall(part(LAST_PART, "") if in_parts else framed(content)[-1:])
    assert child.hear() == ("queued: " if in_parts else "at once: ") + content


def test_a_goodbye_is_answered(child):
    child.say((1000).to_bytes(2, "big"), CLOSE)
    assert child.hear().code == 1000


def test_a_failure_reaches_the_application_which_closes(child):
    child.say("before")
    child.say("fail")
    assert child.hear() == "at once: before"
    assert child.hear().code == 1000


def test_a_silent_child_is_pinged_and_lives_as_long_as_it_answers(doubted):
    for _ in range(3):
        assert doubted._file.read(2) == b"\x89\x00"
        doubted.say(b"", PONG)
    doubted.say("still here")
    assert doubted.hear() == "at once: still here"


def test_a_child_that_answers_no_ping_is_given_up(doubted):
    heard = bytearray()
    with suppress(ConnectionResetError):
        while more := doubted._file.read1():
            heard += more
    assert set(heard) == set(b"\x89\x00")


def test_an_answer_longer_than_a_socket_takes_at_once_arrives_whole(child):
    content = os.urandom(90_000)
    for _ in range(100):
        child.say(content)
    assert all(child.hear() == content for _ in range(100))
