"""What does a child cost that says next to nothing?

Questions
  1. How much private memory does a connection take, and how much CPU a heartbeat: awake, hibernating, and of a stock
     consumer of Channels on the same server?
  2. How much CPU does a connection take in a second: silent, when all the server does is ping it, and with a heartbeat
     every 30 s?
  3. How many handshakes a second are let in, beside a bare ASGI application?

Method
  daphne in a process of its own, the load in another one that speaks bytes (benchmarks.crowd). SOCKETS connect 32 at a
  time, say who they are, then BEATS heartbeats one after the other, each when the one before was answered. Memory is
  what the process has more than before the first socket, by /proc/PID/smaps_rollup, over sockets; CPU is its user and
  system time. The stock consumer either just answers, or notes in the child's row when it was heard of, which is what
  the parent does for all children together. Behind Pushpin the sockets are Pushpin's: see benchmarks.pushpin.

Last answer (November 2026, 2 cores of a virtual machine, CPython 3.11, daphne 4.2.3)

    15 000 sockets               KiB a socket   us a beat   us/s silent   us/s beating   accepts/s
      bare ASGI application          21.5         254.4         7.73           16.2         1,232
      stock consumer, answers        31.6         642.9         5.82           27.2            65
      stock consumer, notes it       31.7       3,557.4         6.46          125.0            61
      ours, awake                    10.1         106.0         5.06            8.6         1,217
      ours, hibernating               8.6          61.7         4.71            6.8         1,176

    5000 sockets, while other work was going on
      bare ASGI application          23.5           253                                     1,049
      stock consumer, answers        29.7           883                                       283
      stock consumer, notes it       31.0         7,541                                       286
      ours, awake                    10.9            95                                     1,121
      ours, hibernating               7.2            43                                       478

    make bench-idle        SOCKETS=5000 for the short one
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.parent import cpu_us, django, house, private_kib

SIZES = [int(size) for size in os.environ.get("SOCKETS", "5000 15000").split()]
BEATS = int(os.environ.get("BEATS", "10000"))
HEARTBEAT_S = 30
"""A child's, unless it is configured otherwise."""
REST_S = 45
"""Every silent socket is pinged within it."""
SLEEP_AFTER_MS = 1000
NEVER = 0


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    application: str = "evodb_site.asgi:application"
    hibernate_after_ms: int = NEVER
    says_hello: bool = True
    has_rows: bool = False


KINDS = (
    Kind("bare ASGI application", "benchmarks.stock:bare", says_hello=False),
    Kind("stock consumer, answers", "benchmarks.stock:echo", says_hello=False),
    Kind("stock consumer, notes it", "benchmarks.stock:rows", says_hello=False, has_rows=True),
    Kind("ours, awake"),
    Kind("ours, hibernating", hibernate_after_ms=SLEEP_AFTER_MS),
)


class Load:
    """benchmarks.crowd at the other end of a pipe."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def order(self, what: str, argument: float = 0) -> float:
        """The seconds it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {argument}\n")
        self._process.stdin.flush()
        done, _, seconds = self._process.stdout.readline().partition(" ")
        if done != "done":
            raise SystemExit(f"the load of this benchmark ended while it was told to {what}")
        return float(seconds)


def main() -> int:
    for sockets in SIZES:
        head = ("KiB a socket", "us a beat", "us/s silent", "us/s beating", "accepts/s")
        print(f"{f'{sockets} sockets':28}" + "".join(f"{word:>14}" for word in head))
        for kind in KINDS:
            memory, beat_us, silent_us, accepts = measure(kind, sockets)
            beating_us = beat_us / HEARTBEAT_S + silent_us
            print(
                f"{kind.name:28}{memory:14.1f}{beat_us:14.1f}{silent_us:14.2f}{beating_us:14.1f}{accepts:14,.0f}",
                flush=True,
            )
        print()
    return 0


def measure(kind: Kind, sockets: int) -> tuple[float, float, float, float]:
    """KiB per socket, CPU in us per heartbeat, CPU in us per socket and second of silence, handshakes/s."""
    sleep_after = {"EVODB_HIBERNATE_AFTER_MS": str(kind.hibernate_after_ms)}
    with house(application=kind.application, **sleep_after) as (url, parent), crowd(url) as load:
        if kind.has_rows:
            make_rows(sockets)
        load.order("dial", 100)  # the first ones load what is loaded once
        before = private_kib(parent)
        accepts = sockets / load.order("dial", sockets)
        if kind.says_hello:
            load.order("hello")
        load.order("rest", 2 + kind.hibernate_after_ms / 1000)
        memory = (private_kib(parent) - before) / sockets
        begun = cpu_us(parent)
        load.order("beat", BEATS)
        beat_us = (cpu_us(parent) - begun) / BEATS
        load.order("rest", 2 + kind.hibernate_after_ms / 1000)
        begun = cpu_us(parent)
        load.order("rest", REST_S)
        return memory, beat_us, (cpu_us(parent) - begun) / REST_S / sockets, accepts


@contextmanager
def crowd(url: str) -> Iterator[Load]:
    port = url.split(":")[2].partition("/")[0]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.crowd", port], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Load(process)
        finally:
            process.kill()


def make_rows(count: int) -> None:
    django(
        "from lakehouse.models import Child, Parent; parent = Parent.objects.get(); "
        f"rows = [Child(parent=parent, name=f'shop-{{n}}') for n in range({count + 100})]; "
        "Child.objects.bulk_create(rows)"
    )


if __name__ == "__main__":
    sys.exit(main())
