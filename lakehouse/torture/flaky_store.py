"""An object store that answers as it likes: a proxy before the real one, which keeps what was written."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
MOODS = ("500", "503", "cut", "late", "silent")
"""Errors of a server; cut after the work was done; the work done and an answer after `LATE_S`; nothing done or said."""
LATE_S = 8.0
PART_BYTES = 64 * 1024
Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


class FlakyStore:
    """Listens on `port` and forwards to `upstream_port`. While `moods` are set every second request meets one.

    All requests together say no more than `bytes_per_s`, if that is set.
    """

    def __init__(self, upstream_port: int, dice: random.Random, *, bytes_per_s: float | None = None) -> None:
        self.moods: Sequence[str] = ()
        self.bytes_per_s = bytes_per_s
        self.methods: Collection[str] | None = None
        """Only these requests meet a mood; None: all."""
        self.met = 0
        """Requests that met a mood."""
        self.is_over = threading.Event()
        self._upstream_port = upstream_port
        self._dice = dice
        self._lock = threading.Lock()
        self._free_s = 0.0
        """When what was read so far is paid for."""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.store = self
        threading.Thread(target=self._server.serve_forever, name="flaky-store", daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()

    def mood(self, method: str) -> str:
        with self._lock:
            is_spared = self.methods is not None and method not in self.methods
            if not self.moods or is_spared or self._dice.random() < 0.5:
                return ""
            self.met += 1
            return self._dice.choice(self.moods)

    def pace(self, size_bytes: int) -> None:
        """Wait until so many bytes more may have come."""
        if self.bytes_per_s is None:
            return
        with self._lock:
            self._free_s = max(self._free_s, time.monotonic()) + size_bytes / self.bytes_per_s
            wait_s = self._free_s - time.monotonic()
        self.is_over.wait(max(0.0, wait_s))

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """What the real store says. Raises OSError, HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream_port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in HOP_BY_HOP:
                    connection.putheader(name, value)
            if body or method in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, dict(answer.getheaders()), content
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    store: FlakyStore
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with suppress(ConnectionError):  # whoever asked was killed
            super().handle()

    def _serve(self) -> None:
        store, body = self.server.store, self._body()
        mood = store.mood(self.command)
        if mood in ("500", "503"):
            self._answer(int(mood), {}, b"")
            return
        if mood == "silent":
            store.is_over.wait(LATE_S)
            self.close_connection = True
            return
        try:
            answer = store.forward(self.command, self.path, dict(self.headers.items()), body)
        except (OSError, http.client.HTTPException):
            self._answer(503, {}, b"")
            return
        if mood == "late":
            store.is_over.wait(LATE_S)
        if mood == "cut":
            self.close_connection = True
            return
        self._answer(*answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(iter(self._chunk, b""))
        return self._read(int(self.headers.get("Content-Length") or 0))

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0], 16)
        content = self._read(size)
        self.rfile.readline()
        return content

    def _read(self, size: int) -> bytes:
        parts = []
        for at in range(0, size, PART_BYTES):
            parts.append(self.rfile.read(min(PART_BYTES, size - at)))
            self.server.store.pace(len(parts[-1]))
        return b"".join(parts)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in HOP_BY_HOP | {"date", "server"}:
                    self.send_header(name, value)
            told = headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", told or str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except OSError:  # whoever asked has lost its patience
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""
