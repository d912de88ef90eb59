"""HTTP with what Python brings along: no redirect is followed, for it would take the key elsewhere.

Python's timeouts are for each byte. The whole answer to a post has as long as that, or who says a byte now and then
would never be done.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rpc.retry_after import retry_after_ms

ANSWER_BYTES_MAX = 1024 * 1024
RETRY_AFTER_MS_MAX = 3600 * 1000
"""Who says that nobody shall come for days is not believed."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def retry_after_ms(self, *, now_ms: int) -> int:
        """Said in seconds, or as a moment; 0 when it is neither."""
        text = self.headers.get("retry-after", "")
        return retry_after_ms(text, now_ms=now_ms, most_ms=RETRY_AFTER_MS_MAX) or 0


class _Until(io.RawIOBase):
    """What a socket receives before its time is over, all together."""

    def __init__(self, sock: socket.socket) -> None:
        timeout_s = sock.gettimeout()
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        self._until_s = None if timeout_s is None else time.monotonic() + timeout_s

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int | None:
        if self._until_s is not None:
            left_s = self._until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the answer was not complete in time")
            self._sock.settimeout(left_s)
        return self._raw.readinto(into)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(_Until(sock), *args, **options)  # type: ignore[arg-type]  # it asks for makefile only


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _TlsConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Connection, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_TlsConnection, request)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


opener = urllib.request.build_opener(_NoRedirect)
"""Large answers may take their time, as long as they go on."""
_of_posts = urllib.request.build_opener(_NoRedirect, _Http, _Https)


def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
    """Raises OSError when there is no answer."""
    request = urllib.request.Request(url, body, dict(headers), method="POST")  # noqa: S310 - the config checks it
    try:
        with _opened(request, timeout_s) as found:
            return _answer(found.status, found)
    except (ValueError, http.client.HTTPException) as exc:  # what is no HTTP, or ends in its middle
        raise OSError(str(exc)) from exc


def _opened(request: urllib.request.Request, timeout_s: float) -> Any:
    try:
        return _of_posts.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as exc:
        return exc


def _answer(status: int, found: Any) -> Answer:
    headers = {name.lower(): value for name, value in found.headers.items()}
    return Answer(status, headers, found.read(ANSWER_BYTES_MAX))
