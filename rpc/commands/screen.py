"""What a command shows: events as they happen, one live line, and a bar for what has an end.

Three screens for one interface: JSON lines for programs; plain lines for logs and pipes; rich, if it is installed and
somebody watches. None knows what the numbers mean.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any, Protocol, TextIO

PLAIN_EVERY_S = 5.0
"""A log that nobody watches needs no more."""


class Screen(Protocol):
    def event(self, kind: str, text: str, **fields: Any) -> None:
        """Something happened; it stays on the screen."""

    def status(self, text: str, **fields: Any) -> None:
        """How things are now; the next one takes its place."""

    def progress(self, what: str, done: int, total: int | None) -> None:
        """How much of something is done; `total` is None when nobody knows."""

    def close(self) -> None: ...


def of(*, as_json: bool, out: TextIO | None = None) -> Screen:
    out = out or sys.stdout
    if as_json:
        return JsonScreen(out)
    if out.isatty():
        try:
            screen: Screen = importlib.import_module("rpc.commands.rich_screen").RichScreen()
        except ModuleNotFoundError:
            pass
        else:
            return screen
    return PlainScreen(out)


class JsonScreen:
    def __init__(self, out: TextIO) -> None:
        self._out = out

    def event(self, kind: str, text: str, **fields: Any) -> None:
        self._out.write(json.dumps({"event": kind, **fields}) + "\n")
        self._out.flush()

    def status(self, text: str, **fields: Any) -> None:
        self.event("status", text, **fields)

    def progress(self, what: str, done: int, total: int | None) -> None:
        self.event("progress", what, what=what, done=done, total=total)

    def close(self) -> None:
        self._out.flush()


class PlainScreen:
    """Lines; the live line and the bars only now and then, and a bar when it is full."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last_s: dict[str, float] = {}
        self._shown: dict[str, str] = {}

    def event(self, kind: str, text: str, **fields: Any) -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def status(self, text: str, **fields: Any) -> None:
        self._now_and_then("", text, always=False)

    def progress(self, what: str, done: int, total: int | None) -> None:
        text = f"{what}: {done:,}" if total is None else f"{what}: {done:,} of {total:,}"
        self._now_and_then(what, text, always=done == total)

    def close(self) -> None:
        self._out.flush()

    def _now_and_then(self, what: str, text: str, *, always: bool) -> None:
        now_s = time.monotonic()
        if self._shown.get(what) == text or (not always and now_s - self._last_s.get(what, -1e9) < PLAIN_EVERY_S):
            return
        self._last_s[what], self._shown[what] = now_s, text
        self.event(what, text)
