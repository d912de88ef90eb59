"""How long a command waits for a parent that is away."""

from __future__ import annotations

from rpc.commands.notices import Notices
from rpc.errors import ConnectionError
from rpc.outcome import ClientState

UNHEARD_S = 10.0
"""So much longer while not even a dial failed: somebody may be about to answer."""


class Patience:
    """`wait_s` is counted from when the parent was there last, or nothing was asked of it."""

    def __init__(self, heard: Notices, *, wait_s: float) -> None:
        self._heard = heard
        self._wait_s = wait_s
        self._since_s: float | None = None

    def check(self, state: ClientState, *, wanted: bool, now_s: float) -> None:
        """Raises why there is no parent, when that lasts too long."""
        if self._since_s is None or state is ClientState.CONNECTED or not wanted:
            self._since_s = now_s
        away_s, reason = now_s - self._since_s, self._heard.reason
        if wanted and state is not ClientState.CONNECTED and away_s >= self._wait_s + (0 if reason else UNHEARD_S):
            raise reason or ConnectionError(f"the parent did not answer within {away_s:.0f} s")
