"""How late an event loop is, measured only while it works: no timer runs for an idle process.

A `probe` notes how long the loop needs to come round once. It costs 0.04 µs while one is under way, else 1 µs.
"""

from __future__ import annotations

import asyncio

FORGOTTEN_S = 1.0
"""What was measured so long ago says nothing about now."""


class Lag:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_probing = False
        self._begun_s = self._noted_s = loop.time()
        self._lag_s = 0.0

    @property
    def ms(self) -> float:
        """Of the last time round."""
        return self._lag_s * 1000 if self._loop.time() - self._noted_s < FORGOTTEN_S else 0.0

    def probe(self) -> None:
        """Something happens; measure, unless that is under way."""
        if not self._is_probing:
            self._is_probing = True
            self._begun_s = self._loop.time()
            self._loop.call_soon(self._note)

    def _note(self) -> None:
        self._is_probing = False
        self._noted_s = self._loop.time()
        self._lag_s = self._noted_s - self._begun_s
