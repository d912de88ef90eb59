"""HTTP with what Python brings along: no redirect is followed, for it would take the key elsewhere."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ANSWER_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def retry_after_ms(self) -> int:
        text = self.headers.get("retry-after", "")
        return int(text[:6]) * 1000 if text.isdecimal() else 0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


opener = urllib.request.build_opener(_NoRedirect)


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
        return opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as exc:
        return exc


def _answer(status: int, found: Any) -> Answer:
    headers = {name.lower(): value for name, value in found.headers.items()}
    return Answer(status, headers, found.read(ANSWER_BYTES_MAX))
