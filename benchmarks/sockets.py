"""WebSockets as bytes: the least a client can do, so that a benchmark measures the server and not its load."""

from __future__ import annotations

import base64
import os
import socket
import struct

MASK = b"\0\0\0\0"
"""A mask all the same, as RFC 6455 wants it of a client; masking with zeros costs nothing."""
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A


def handshake(path: str, headers: dict[str, str] | None = None) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Version: 13"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


def frame(content: bytes, kind: int = BINARY) -> bytes:
    size = len(content)
    if size < 126:
        return bytes([kind, 0x80 | size]) + MASK + content
    if size < 2**16:
        return struct.pack(">BBH", kind, 0x80 | 126, size) + MASK + content
    return struct.pack(">BBQ", kind, 0x80 | 127, size) + MASK + content


def accepted(connection: socket.socket) -> None:
    """Read the answer to a handshake up to its end. Raises ConnectionError for any but a 101."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        if not (more := connection.recv(4096)):
            raise ConnectionError("closed during the handshake")
        answer += more
    if not answer.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(answer.partition(b"\r\n")[0].decode())


class Frames:
    """The frames of a server, cut from what a socket brings."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, more: bytes) -> list[tuple[int, bytes]]:
        """Those that are whole now, with their kinds."""
        data = self._rest + more if self._rest else more
        found, at, end = [], 0, len(data)
        while end - at >= 2:
            size, begin = data[at + 1], at + 2
            if size == 126:
                if end < begin + 2:
                    break
                size, begin = int.from_bytes(data[begin : begin + 2], "big"), begin + 2
            elif size == 127:
                if end < begin + 8:
                    break
                size, begin = int.from_bytes(data[begin : begin + 8], "big"), begin + 8
            if end < begin + size:
                break
            found.append((data[at], data[begin : begin + size]))
            at = begin + size
        self._rest = data[at:]
        return found
