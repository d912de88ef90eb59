"""Celery's beat, which asks every few seconds: where the broker takes nothing it says so in a line, and asks again.

Its own scheduler writes a traceback and a stack for each task it could not send. A task that was not sent is lost and
costs nothing, for the next one asks for the same.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import beat
from kombu.exceptions import OperationalError

log = logging.getLogger(__name__)

SAY_EVERY_S = 60


class Scheduler(beat.Scheduler):
    """In memory, as the one it is made of."""

    _said_s: float | None = None
    """When it was said last that the broker takes nothing; None when it takes what it is given."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except beat.SchedulingError as exc:
            if isinstance(exc.__context__, (OperationalError, OSError)):
                self._say(exc.__context__, now_s=time.monotonic())
            else:
                log.exception("%s was not sent", entry.task)
        else:
            if self._said_s is not None:
                self._said_s = None
                log.warning("the broker takes tasks again")

    def _say(self, error: BaseException, *, now_s: float) -> None:
        if self._said_s is None or now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            said = " ".join(str(error).split()) or type(error).__name__
            log.error("the broker takes no tasks (%s); what is due is asked for again until it does", said)
