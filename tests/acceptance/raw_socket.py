"""A WebSocket client with no manners: it says any bytes, reads only when it is told to, and leaves when it likes."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from typing import Any, NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
NO_MASK = bytes(4)
"""XOR with zeros changes nothing: a frame with a megabyte costs no time here."""


class Closed(NamedTuple):
    """How the other side ended it; no code when it only went away."""

    code: int | None = None
    reason: str = ""


def framed(payload: str | bytes, opcode: int | None = None) -> bytes:
    """One frame, of text or of bytes when nothing else is said."""
    opcode = opcode or (TEXT if isinstance(payload, str) else BINARY)
    content = payload.encode() if isinstance(payload, str) else payload
    size = len(content)
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    elif size < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + NO_MASK + content


class RawSocket:
    """One connection. `status` and `headers` are those of the answer to the handshake; 101 lets it in."""

    def __init__(
        self,
        port: int,
        path: str = "/ws",
        *,
        token: str = "",
        source: str = "127.0.0.1",
        timeout_s: float = 30,
        **more: str,
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s, source_address=(source, 0))
        headers = {
            "Host": "127.0.0.1",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
        }
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.socket.sendall(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.headers: dict[str, str] = {}
        while line := self._file.readline().strip().decode("latin-1"):
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()

    def __enter__(self) -> RawSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        """Go away without a word."""
        self._file.close()
        self.socket.close()

    def body(self) -> Any:
        """What a refused handshake said, as JSON."""
        return json.loads(self._file.read())

    def say(self, payload: str | bytes, opcode: int | None = None) -> None:
        self.socket.sendall(framed(payload, opcode))

    def hear(self) -> str | bytes | Closed:
        """The next message; pings are answered on the way."""
        while True:
            try:
                head = self._file.read(2)
            except ConnectionResetError:
                return Closed()
            if len(head) < 2:
                return Closed()
            opcode, size = head[0] & 15, head[1] & 127
            if size == 126:
                [size] = struct.unpack(">H", self._file.read(2))
            elif size == 127:
                [size] = struct.unpack(">Q", self._file.read(8))
            payload = self._file.read(size)
            if opcode == CLOSE:
                return Closed(int.from_bytes(payload[:2], "big"), payload[2:].decode())
            if opcode == PING:
                self.say(payload, PONG)
            elif opcode != PONG:
                return payload.decode() if opcode == TEXT else payload

    def answer(self) -> Any:
        """The next message, as JSON, or how it ended."""
        heard = self.hear()
        return heard if isinstance(heard, Closed) else json.loads(heard)

    def ask(self, payload: str | bytes) -> Any:
        self.say(payload)
        return self.answer()
