"""The end of a program that somebody typed: by itself, after so long, or at a named step."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from lakehouse.torture.process import Process
from rpc.failpoints import VARIABLE, Failpoint

WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Death:
    in_s: float | None = None
    failpoint: str = ""

    def __str__(self) -> str:
        """As the end of a sentence."""
        if self.failpoint:
            return f", killed at {self.failpoint}"
        return "" if self.in_s is None else f", killed after {self.in_s:.1f} s"

    def meet(self, program: Process) -> None:
        """Start it, and see it end this way or the other."""
        if self.failpoint:
            program.env = {**program.env, VARIABLE: self.failpoint.replace("@", "=kill@")}
        program.start()
        assert program.running is not None
        with suppress(subprocess.TimeoutExpired):
            program.running.wait(WITHIN_S if self.in_s is None else self.in_s)
        program.kill()


def choose(dice: random.Random, points: Sequence[Failpoint] = ()) -> Death:
    """One in three lives."""
    in_s, point, visit = 0.5 + 3 * dice.random(), dice.choice([*points, None]), dice.randint(1, 3)
    if dice.random() < 1 / 3:
        return Death()
    return Death(in_s) if point is None else Death(failpoint=f"{point}@{visit}")
