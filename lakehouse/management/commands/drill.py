"""`manage.py drill`: an outage on purpose. The store is not touched; flushes are told that it is away."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from lakehouse import clock
from lakehouse.fallback import ledger
from lakehouse.fallback.ledger import Held
from lakehouse.flush import breaker_row
from lakehouse.management.operation import Operation
from lakehouse.tasks import recover_fallback

LOOK_EVERY_S = 5.0
AHEAD_MS = 30_000
"""The outage is renewed while the drill lives; one that dies leaves it on for so long."""
DRAIN_MINUTES_MAX = 30


class Command(Operation):
    help = "Let the object store seem away for a while, watch the fallback fill and drain, and say whether all is well."

    sleep: Callable[[float], None] = staticmethod(time.sleep)
    now_ms: Callable[[], int] = staticmethod(clock.now_ms)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--minutes", type=float, default=2.0, help="how long the store is away (2)")

    def handle(self, *, minutes: float, **_: Any) -> None:
        if not 0 < minutes <= 24 * 60:
            raise CommandError(f"--minutes is {minutes:g}, wanted more than 0 and at most {24 * 60}")
        end_ms = self.now_ms() + int(minutes * 60_000)
        until_ms = min(end_ms, self.now_ms() + AHEAD_MS)
        if not breaker_row.begin_outage(until_ms=until_ms, now_ms=self.now_ms()):
            raise CommandError("there is a drill already; it ends by itself within a minute when nobody leads it")
        self.stdout.write(f"the store is away for {minutes:g} min; Ctrl-C ends it, and nothing is lost")
        try:
            self._watch(until_ms, end_ms)
        except KeyboardInterrupt:
            self.stdout.write("ended early")
        finally:
            breaker_row.end_outage()
        self._drain()

    def _watch(self, until_ms: int, end_ms: int) -> None:
        before, at_ms = ledger.held(), self.now_ms()
        while (now_ms := self.now_ms()) < end_ms:
            self.sleep(min(LOOK_EVERY_S, (end_ms - now_ms) / 1000))
            now = ledger.held()
            took_s = (self.now_ms() - at_ms) / 1000
            self.stdout.write(self._line(before, now, took_s))
            before, at_ms = now, self.now_ms()
            next_ms = min(end_ms, self.now_ms() + AHEAD_MS)
            if next_ms > until_ms and not breaker_row.prolong_outage(since_ms=until_ms, until_ms=next_ms):
                self.stdout.write("somebody else ended the outage")
                return
            until_ms = max(until_ms, next_ms)

    def _line(self, before: Held, now: Held, took_s: float) -> str:
        most = settings.EVODB.fallback_bytes_max
        left_s = ledger.full_in_s(before.fullest_bytes, now.fullest_bytes, took_s=took_s, bytes_max=most)
        rate = (now.size_bytes - before.size_bytes) / took_s if took_s else 0.0
        full = "not at this rate" if left_s is None else f"in {left_s / 60:.0f} min"
        state = breaker_row.read().state
        return (
            f"breaker {state}, spool {now.size_bytes} bytes, {now.rows} rows, {rate:.0f} bytes/s, full {full} "
            f"({now.fullest_bytes} of {most} bytes of the fullest parent)"
        )

    def _drain(self) -> None:
        began_ms, before = self.now_ms(), ledger.held()
        self.stdout.write(f"the outage is over: {before.rows} rows of {before.batches} batches are kept")
        try:
            while (left := ledger.left_of(before)).pieces and self.now_ms() - began_ms < DRAIN_MINUTES_MAX * 60_000:
                moved = recover_fallback()
                left = ledger.left_of(before)
                state = breaker_row.read().state
                self.stdout.write(f"breaker {state}, {left.rows_in_tables} rows in tables, {left.pieces} pieces left")
                if left.pieces and not moved:
                    self.sleep(LOOK_EVERY_S)
        except KeyboardInterrupt:
            self.stdout.write("ended early; workers go on with what is left")
        self.stdout.write(f"drained in {(self.now_ms() - began_ms) / 1000:.1f} s")
        is_well, sentence = ledger.verdict(before, ledger.left_of(before))
        if not is_well:
            raise CommandError(f"{sentence}; look with manage.py recover_fallback")
        self.stdout.write(sentence)
