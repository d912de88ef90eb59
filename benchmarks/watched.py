"""What processes take while something goes on: looked at every second, told by thirds."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

import psutil

Look = Callable[[], float]


def mib(of: Callable[[], int]) -> Look:
    """Resident memory of a process and of all it started, whatever its id is by now."""
    return lambda: sum(one.memory_info().rss for one in _tree(of())) / 2**20


def mib_largest(of: Callable[[], int]) -> Look:
    """Resident memory of the largest process of a tree."""
    return lambda: max((one.memory_info().rss for one in _tree(of())), default=0) / 2**20


def files(of: Callable[[], int]) -> Look:
    """Open files and sockets of a process and of all it started."""
    return lambda: sum(one.num_fds() for one in _tree(of()))


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


class Watch:
    """Looks from a thread of its own until it is left."""

    def __init__(self, looks: Mapping[str, Look], *, every_s: float = 1.0) -> None:
        self.seen: dict[str, list[float]] = {name: [] for name in looks}
        self._looks = looks
        self._every_s = every_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def thirds(self, name: str) -> tuple[float, float, float, float]:
        """The median of each third, and the highest of all."""
        found = self.seen[name]
        third = max(1, len(found) // 3)
        medians = [statistics.median(part) for part in (found[:third], found[third:-third] or found, found[-third:])]
        return medians[0], medians[1], medians[2], max(found)

    def table(self) -> str:
        lines = [f"{'':28}{'first third':>13}{'second':>10}{'last':>10}{'highest':>10}"]
        for name in self.seen:
            first, second, last, highest = self.thirds(name)
            lines.append(f"{name:28}{first:13,.1f}{second:10,.1f}{last:10,.1f}{highest:10,.1f}")
        return "\n".join(lines)

    def _run(self) -> None:
        while not self._is_over.wait(self._every_s):
            for name, look in self._looks.items():
                with suppress(psutil.Error):
                    self.seen[name].append(look())
