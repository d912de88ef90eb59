from __future__ import annotations

import struct
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpc import frames
from rpc.errors import ProtocolError
from rpc.messages import DEFAULT_CLIENT_CAPABILITIES, ClientCapabilities
from tests.rpc.test_protocol import VALUES

EVENTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=4)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(EVENTS)
def test_an_event_comes_back(event: dict[str, Any]) -> None:
    assert frames.decode_frame(frames.encode_frame(event)) == event


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(EVENTS, max_size=4))
def test_a_list_of_events_comes_back(events: list[dict[str, Any]]) -> None:
    assert frames.decode_batch(frames.encode_batch(events)) == events


@pytest.mark.parametrize(
    ("data", "decode"),
    [
        (frames.encode_frame({"a": [1, "ü"]}), frames.decode_frame),
        (frames.encode_batch([{"a": 1}, {}]), frames.decode_batch),
    ],
)
def test_any_changed_byte_but_reserved_ones_is_noticed(data: bytes, decode: Any) -> None:
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        try:
            assert decode(changed) == decode(data), at  # the reserved bytes say nothing
            assert at < 20
        except ProtocolError as exc:
            assert str(exc)  # noqa: PT017
    for end in range(len(data)):
        with pytest.raises(ProtocolError):
            decode(data[:end])


def signed(body: bytes, *, count: int | None = None, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    if count is None:
        crc = crc32(struct.pack("<HBxIIxxxx", 0xEDB0, 1, size, 0) + body)
        return struct.pack("<HBxIIxxxx", 0xEDB0, 1, size, crc) + body
    crc = crc32(struct.pack("<HBBxxxxIII", 0xEDB0, 1, 0x10, count, size, 0) + body)
    return struct.pack("<HBBxxxxIII", 0xEDB0, 1, 0x10, count, size, crc) + body


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[]", "wanted an object"),
        (b"{", "does not hold JSON"),
        (b"\xff", "does not hold JSON"),
        (b"[" * 10**5, "JSON"),
    ],
)
def test_a_signed_frame_still_has_to_hold_an_object(body: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        frames.decode_frame(signed(body))


@pytest.mark.parametrize(
    ("body", "count", "said"),
    [(b"{}", 0, "array of objects"), (b"[1]", 1, "array of objects"), (b"[{}]", 2, "Entry count mismatch")],
)
def test_a_signed_batch_still_has_to_hold_its_events(body: bytes, count: int, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        frames.decode_batch(signed(body, count=count))


def test_a_frame_that_announces_more_than_a_message_may_have_is_refused_at_once() -> None:
    for decode, data in (
        (frames.decode_frame, signed(b"{}", length=2**32 - 1)),
        (frames.decode_batch, signed(b"[]", count=2**32 - 1, length=2**24 + 1)),
    ):
        with pytest.raises(ProtocolError, match="at most 16777216"):
            decode(data)
    with pytest.raises(ProtocolError, match="at most 16777216"):
        frames.encode_frame({"a": "x" * 2**24})


@pytest.mark.parametrize("flags", range(8))
def test_capabilities_come_back_from_flags_and_unknown_bits_are_ignored(flags: int) -> None:
    assert frames.encode_capabilities(frames.decode_capabilities(flags)) == flags
    assert frames.decode_capabilities(flags | 0xF8) == frames.decode_capabilities(flags)


def test_sizes_do_not_travel_in_flags() -> None:
    found = frames.decode_capabilities(frames.encode_capabilities(ClientCapabilities(max_batch_size=1)))
    assert found == DEFAULT_CLIENT_CAPABILITIES
