"""How fast is the street?

Questions
  1. How many batches a second does one parent make durable and ack, with 1, 100 and 1000 entries each?
  2. How many entries a second travel from the socket into a committed snapshot?
  3. How much memory does the parent take for it?

Method
  The real processes on one machine: daphne, a Celery worker, SQLite (WAL, FULL), a folder; 8 children in a process of
  their own, frames made beforehand, at most 100 unanswered batches or 10 000 entries each. Documents of 180 bytes with
  8 keys. The load shares the cores with what it measures.
  Durable: acked batches by the time from the first frame to the last ack, the worker resting. End to end: entries by
  the time from the first frame to the commit that empties the buffer. Memory: the parent's peak resident set.

Last answer (November 2026, 2 cores of a virtual machine)
                              batches/s   entries/s    MB/s  parent MiB
    durable, 1 a batch           13 300      13 300       3         106
    durable, 100 a batch          4 991     499 000     100         125
    durable, 1000 a batch           960     963 000     192         127
    end to end, 100 a batch       2 470     247 000      49         125
  The second line is the disk, for every byte is written to the log and to the file; seven runs gave 4 930 to 5 350,
  median 5 049.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import websockets

from benchmarks.parent import django, house, peak_mib
from rpc.messages import FlushRequestMessage
from rpc.protocol import encode_message

CONNECTIONS = 8
WINDOW_ENTRIES = 10_000
"""Unanswered entries of a connection, in at most 100 batches, as a child does by default."""
WARMING = 800
CONFIG = {
    "flush_threshold_entries": 200_000,
    "flush_threshold_bytes": 256 * 2**20,
    "max_buffer_entries": 20_000_000,
    "max_buffer_bytes": 16 * 2**30,
}


SIZES = ((1, 40_000), (100, 10_000), (1000, 1500))


def main() -> int:
    rows = []
    for entries, batches in SIZES:
        with house(config=CONFIG) as (url, parent):
            result = load(url, batches, entries)
            rows.append((f"durable, {entries} a batch", result, result["seconds"], peak_mib(parent)))
    with house(working=True, config=CONFIG, EVODB_FLUSH_ENTRIES_MAX="400000") as (url, parent):
        warm_up(url)
        result = load(url, 20_000, 100)
        rows.append(("end to end, 100 a batch", result, seconds_until_empty(url, result), peak_mib(parent)))
    print(f"{'':28}{'batches/s':>12}{'entries/s':>12}{'MB/s':>8}{'parent MiB':>12}{'refused':>9}")
    for name, result, seconds, mib in rows:
        rate = [result[key] / seconds for key in ("batches", "entries", "bytes")]
        print(f"{name:28}{rate[0]:12,.0f}{rate[1]:12,.0f}{rate[2] / 1e6:8.0f}{mib:12.0f}{result['refused']:9}")
    return 0


def warm_up(url: str) -> None:
    """One small flush, so that the worker has loaded its libraries."""
    load(url, CONNECTIONS, WARMING // CONNECTIONS, "warming")
    flush(url)


def load(url: str, batches: int, entries: int, name: str = "child") -> dict[str, float]:
    arguments = [url, name, *map(str, (CONNECTIONS, batches, entries, min(100, WINDOW_ENTRIES // entries)))]
    done = subprocess.run([sys.executable, "-m", "benchmarks.load", *arguments], check=True, stdout=subprocess.PIPE)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def flush(url: str) -> None:
    """Have the worker bring everything into the table, as a child would ask for it."""

    async def ask() -> None:
        async with websockets.connect(url, compression=None) as child:
            await child.send(encode_message(FlushRequestMessage(timestamp=1, source_do_id="bench")))
            answer = json.loads(await child.recv())
            assert answer["result"]["success"], answer

    asyncio.run(ask())


def seconds_until_empty(url: str, result: dict[str, float]) -> float:
    """From the first frame to the commit of the last entry, which the flush itself wrote down."""
    flush(url)
    told = django(
        "from django.db.models import Max, Sum; from lakehouse.models import Flush; "
        "print(*Flush.objects.aggregate(Max('finished_ms'), Sum('rows')).values())"
    )
    finished_ms, rows = map(int, told.split())
    assert rows == result["entries"] + WARMING, f"{rows} rows in the table of {result['entries']} entries sent"
    return (finished_ms - result["begun_ms"]) / 1000


if __name__ == "__main__":
    sys.exit(main())
