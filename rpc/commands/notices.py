"""What the library logs while a command runs: why there is no connection, and warnings for whoever reads stderr.

A log line that carries one of our errors is about the connection; the live line shows it as long as it lasts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rpc.commands import endings, words
from rpc.errors import LakehouseRpcError
from rpc.outcome import ClientState


class Notices(logging.Handler):
    """`say` is told each warning, once as long as it stays the same; `reason` ended the last connection."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say
        self.reason: LakehouseRpcError | None = None
        self._said = ""

    def why(self, state: ClientState) -> str | None:
        """Why there is no connection in this state; None when there is one, or nothing was heard yet."""
        if state is ClientState.CONNECTED:
            self.reason, self._said = None, ""
        return None if self.reason is None else words.of(self.reason).error

    def emit(self, record: logging.LogRecord) -> None:
        facts = record.args if isinstance(record.args, tuple) else ()
        reason = next((fact for fact in facts if isinstance(fact, LakehouseRpcError)), None)
        if reason is None:
            self._say(record.getMessage())
            return
        self.reason = reason
        text = words.of(reason).error
        # What ended the connection for good also ends the command, which tells it.
        if record.levelno < logging.ERROR and text != self._said:
            self._said = text
            self._say(f"{text}; trying again")


@contextmanager
def heard(program: str, *, as_json: bool) -> Iterator[Notices]:
    """What the library logs meanwhile; warnings go to stderr in the name of this program."""
    notices, log = Notices(lambda text: endings.warn(program, text, as_json=as_json)), logging.getLogger("rpc")
    propagated = log.propagate
    log.addHandler(notices)
    log.propagate = False
    try:
        yield notices
    finally:
        log.removeHandler(notices)
        log.propagate = propagated
