"""What a command shows: events as they happen, one live line, and a bar for what has an end.

Three screens for one interface: JSON lines for programs; plain lines for logs and pipes; rich, if it is installed and
somebody watches. None knows what the numbers mean.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from textwrap import shorten
from typing import Any, Protocol, TextIO

from rpc.outcome import ClientState

WHY_CHARS = 90
PLAIN_EVERY_S = 5.0
"""A log that nobody watches needs no more."""
QUIET_S = 1.0
"""What is over by then needs no bars."""


class Screen(Protocol):
    def event(self, kind: str, text: str, **fields: Any) -> None:
        """Something happened; it stays on the screen."""

    def status(self, text: str, **fields: Any) -> None:
        """How things are now; the next one takes its place."""

    def progress(self, what: str, done: int, total: int | None) -> None:
        """How much of something is done; `total` is None when nobody knows."""

    def close(self) -> None: ...


def of(*, as_json: bool, out: TextIO | None = None, quiet_s: float = QUIET_S) -> Screen:
    """The screen for whoever looks. Within the first `quiet_s` plain lines say what happens, but not how things are."""
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
    return PlainScreen(out, quiet_s=quiet_s)


def connection(state: ClientState, why: str | None) -> str:
    """A connection in a few words, with why there is none."""
    if state is ClientState.DISCONNECTED:
        return "not connected yet"
    return state.value if why is None else f"not connected ({shorten(why, WHY_CHARS)})"


class JsonScreen:
    """An object per line; how things are only when that is new."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last: dict[str, Any] = {}

    def event(self, kind: str, text: str, **fields: Any) -> None:
        self._out.write(json.dumps({"event": kind, **fields}) + "\n")
        self._out.flush()

    def status(self, text: str, **fields: Any) -> None:
        if self._last.get("") != fields:
            self._last[""] = fields
            self.event("status", text, **fields)

    def progress(self, what: str, done: int, total: int | None) -> None:
        if self._last.get(what) != (done, total):
            self._last[what] = (done, total)
            self.event("progress", what, what=what, done=done, total=total)

    def close(self) -> None:
        self._out.flush()


class PlainScreen:
    """Lines; the live line and the bars only now and then."""

    def __init__(self, out: TextIO, *, quiet_s: float = QUIET_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._loud_s = clock() + quiet_s
        self._last_s: dict[str, float] = {}
        self._shown: dict[str, str] = {}
        self._state: str | None = None

    def event(self, kind: str, text: str, **fields: Any) -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def status(self, text: str, **fields: Any) -> None:
        """One with a new `state` is shown at once."""
        if self._now_and_then("", text, always=fields.get("state") != self._state):
            self._state = fields.get("state")

    def progress(self, what: str, done: int, total: int | None) -> None:
        """One that is done is shown at once."""
        text = f"{what}: {done:,}" if total is None else f"{what}: {done:,} of {total:,}"
        self._now_and_then(what, text, always=done == total)

    def close(self) -> None:
        self._out.flush()

    def _now_and_then(self, what: str, text: str, *, always: bool) -> bool:
        now_s = self._clock()
        is_early = now_s < self._loud_s
        is_again = now_s - self._last_s.get(what, -1e9) < PLAIN_EVERY_S
        if is_early or self._shown.get(what) == text or (is_again and not always):
            return False
        self._last_s[what], self._shown[what] = now_s, text
        self.event(what, text)
        return True
