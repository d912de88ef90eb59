"""How many batches a second does one process make durable?

Question
  How many acked batches a second, each durable before its ack, with 1 and with 100 entries, on daphne and on uvicorn?
  Beside it in the same run: how many frames a second the stock consumer of Channels and a bare ASGI application answer
  on that server, both without storing anything.

Method
  The load is a process of its own that speaks bytes (benchmarks.load) over 8 connections, at most 100 batches or 10 000
  entries unanswered on each; SQLite (WAL, FULL), no worker. Rate: acks by the time from the first frame to the last
  ack. CPU: of the server's process, per batch. ROUNDS times in turn, the median of each; the load has the other core.

Last answer (November 2026, 2 cores of a virtual machine, CPython 3.11, daphne 4.2.3, uvicorn 0.54.0)

    median of three rounds                            batches/s   CPU us each    peak MiB
      daphne    durable, 1 a batch                       21 552          46.5         128
      daphne    durable, 100 a batch                      4 870         208.3         143
      daphne    stock consumer, echo                      4 705         209.5          99
      daphne    bare ASGI, echo                          47 611          21.1          98
      uvicorn   durable, 1 a batch                       17 297          57.9         129
      uvicorn   durable, 100 a batch                      4 727         172.1         145
      uvicorn   stock consumer, echo                      8 853         109.4          75
      uvicorn   bare ASGI, echo                          61 181          14.4          75

  So daphne makes 4.6 times as many batches durable as the stock consumer echoes; on the same machine it were 17 881 and
  56.4 us before the columns of one entry were looked at in one step (rpc/columns).

    make bench-ingest
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict

from benchmarks.parent import DAPHNE, UVICORN, cpu_us, house, peak_mib

ROUNDS = int(os.environ.get("ROUNDS", "3"))
CONNECTIONS = 8
WINDOW_ENTRIES = 10_000
SIZES = ((1, 60_000), (100, 8_000))
STOCK = {"stock consumer, echo": "benchmarks.stock:echo", "bare ASGI, echo": "benchmarks.stock:bare"}
CONFIG = {"max_buffer_entries": 20_000_000, "max_buffer_bytes": 16 * 2**30}


def main() -> int:
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for number in range(ROUNDS):
        for server in (DAPHNE, UVICORN):
            for entries, batches in SIZES:
                found[server, f"durable, {entries} a batch"].append(durable(server, entries, batches))
            for name, application in STOCK.items():
                found[server, name].append(echoed(server, application))
        print(f"round {number + 1} of {ROUNDS} is over", file=sys.stderr)
    print(f"{'':34}{'batches/s':>10}{'CPU us each':>13}{'peak MiB':>10}")
    for (server, name), results in found.items():
        rate, cpu, mib = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"{server:10}{name:24}{rate:10,.0f}{cpu:13.1f}{mib:10.0f}")
    return 0


def durable(server: str, entries: int, batches: int) -> tuple[float, float, float]:
    """Batches/s, CPU in us per batch, peak memory in MiB."""
    with house(server=server, config=CONFIG) as (url, parent):
        return _measured(url, parent, batches, entries)


def echoed(server: str, application: str) -> tuple[float, float, float]:
    with house(server=server, application=application) as (url, parent):
        return _measured(url, parent, 40_000, 1, "echo")


def _measured(
    url: str, parent: subprocess.Popen[bytes], batches: int, entries: int, *how: str
) -> tuple[float, float, float]:
    before_us = cpu_us(parent)
    arguments = [url, "child", *map(str, (CONNECTIONS, batches, entries, min(100, WINDOW_ENTRIES // entries)))]
    command = [sys.executable, "-m", "benchmarks.load", *arguments, *how]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if told["refused"]:
        print(f"{told['refused']} batches were refused and sent again", file=sys.stderr)
    return told["batches"] / told["seconds"], (cpu_us(parent) - before_us) / told["batches"], peak_mib(parent)


if __name__ == "__main__":
    sys.exit(main())
