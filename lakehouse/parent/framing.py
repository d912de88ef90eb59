"""The frames of RFC 6455 as a server sees them: the heads of those that come, and those that go. Pure.

It knows the plain ones only: one message in one frame, masked, its size in as few bytes as it needs. The rest is ODD.
"""

from __future__ import annotations

TEXT, BINARY, PING_HEAD, PONG = 0x81, 0x82, 0x89, 0x8A
"""The first byte of a frame that is the last one of its message."""
ODD = 0
"""No first byte of ours: a part of a message, a ping, a goodbye, or what breaks the rules."""
PING = bytes((PING_HEAD, 0))
MASKED = 0x80
MASK_BYTES = 4
U16, U64 = 126, 127
"""Sizes that say that the size follows, in two bytes or eight."""


def head(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Of the frame that begins here: kind, where its mask begins, where it ends. None when more has to come first."""
    if len(data) < at + 2:
        return None
    kind, size, mask_at = data[at], data[at + 1] - MASKED, at + 2
    if size < 0 or (kind != TEXT and kind != BINARY and kind != PONG):
        return ODD, at, at
    if size < U16:
        return kind, mask_at, mask_at + MASK_BYTES + size
    mask_at += 2 if size == U16 else 8
    if len(data) < mask_at:
        return None
    smallest = U16 if size == U16 else 2**16
    size = int.from_bytes(data[at + 2 : mask_at], "big")
    if size < smallest or kind == PONG:
        return ODD, at, at
    return kind, mask_at, mask_at + MASK_BYTES + size


def framed(frame: str | bytes) -> tuple[bytes, bytes]:
    """A frame to send: its head, its content."""
    kind, content = (TEXT, frame.encode()) if isinstance(frame, str) else (BINARY, frame)
    size = len(content)
    if size < U16:
        return bytes((kind, size)), content
    if size < 2**16:
        return bytes((kind, U16)) + size.to_bytes(2, "big"), content
    return bytes((kind, U64)) + size.to_bytes(8, "big"), content
