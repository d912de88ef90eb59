"""How long do a flush into a bucket and the upkeep of a table there take, and how often do they ask?

Question
  Wall clock and requests in S3, if each request takes LATENCY_MS, as between a worker and another city.

Method
  rclone's S3 on this machine, behind a proxy that counts and waits before it passes a request on. A parent on SQLite;
  each flush has 20 entries of 19 keys, for one table or spread over ten, and is run as a worker runs it. Medians of
  FLUSHES, after one that makes the tables. Three workers: one that wrote these tables, as when there is one worker;
  a new one for each flush, as when there are many; and one that writes table after table. Then, once
  each, what is done for a table of FILES flushes, by a worker that knows nothing.

Last answer (November 2026, 2 cores of a virtual machine, LATENCY_MS=50, FLUSHES=10)

    ms and requests of a flush           1 table         10 tables
      who wrote these tables            274    4.0        741   40.0
      a new worker each time            514    8.0       1394   80.0
      table after table                 337    4.0       2667   40.0
    of upkeep, after 26 flushes
      small files merged               1436     75
      old snapshots forgotten           226      3
      their files deleted              2024    115
      a sweep that finds nothing        624      7
      a table of now made              1720     29

  When everything was asked that could be, a table was 24 requests and 1.57 s (docs/decisions/0020). When one file was
  read and deleted after the other, a new worker took 2.70 s for ten tables, the merge 12.9 s and 149 requests, deleting
  9.6 s and 190, the sweep 0.96 s and 11, and the table of now 2.18 s.

    make bench-bucket       FLUSHES=5 for the short one
"""

from __future__ import annotations

import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.commits import Times, commit

FLUSHES = int(os.environ.get("FLUSHES", "20"))
FILES = 26
LATENCY_S = int(os.environ.get("LATENCY_MS", "50")) / 1000


def main() -> int:
    from lakehouse.torture.services import S3

    folder = Path(tempfile.mkdtemp(prefix="evodb-bucket-"))
    s3 = S3(folder)
    s3.start()
    proxy, asked = far_away(s3.port)
    told = {f"EVODB_{name.upper()}": value for name, value in s3.settings(proxy.port).items()}
    os.environ |= {"EVODB_DATA_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "evodb_site.settings", **told}
    import django

    django.setup()
    from django.core.management import call_command

    from lakehouse.catalog import own

    call_command("migrate", verbosity=0)
    print(f"{'ms and requests of a flush':30}{'1 table':>14}{'10 tables':>18}")
    try:
        for name, is_new, at_a_time in [
            ("who wrote these tables", False, own.TABLES_AT_A_TIME),
            ("a new worker each time", True, own.TABLES_AT_A_TIME),
            ("table after table", False, 1),
        ]:
            with patch.object(own, "TABLES_AT_A_TIME", at_a_time):
                found = [way(f"{name} {tables}", tables, asked, is_new=is_new) for tables in (1, 10)]
            print(f"  {name:28}" + "".join(f"{ms:9.0f}{requests:7.1f}  " for ms, requests in found), flush=True)
        print(f"{f'of upkeep, after {FILES} flushes':30}")
        for name, ms, requests in upkeep(asked):
            print(f"  {name:28}{ms:9.0f}{requests:7d}", flush=True)
    finally:
        proxy.close()
        s3.close()
    return 0


def far_away(port: int) -> tuple[Any, list[str]]:
    """A proxy before the S3 of this port, and what it was asked."""
    from lakehouse.torture.flaky_store import Answer, FlakyStore

    asked: list[str] = []

    class FarAway(FlakyStore):
        def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
            asked.append(f"{method} {path}")
            time.sleep(LATENCY_S)
            return super().forward(method, path, headers, body)

    return FarAway(port, random.Random()), asked


def way(name: str, tables: int, asked: list[str], *, is_new: bool) -> tuple[float, float]:
    """Median ms of a flush into so many tables, and its requests."""
    from django.conf import settings

    from lakehouse.catalog import lakes
    from lakehouse.clock import now_ms
    from lakehouse.flush.flow import Flusher
    from lakehouse.models import Parent

    home = Parent.objects.create(name=name, namespace=name.replace(" ", "_"))
    times, worker = Times(), None
    for number in range(FLUSHES + 1):
        if worker is None or is_new:
            worker = Flusher("benchmark", settings.EVODB, lakes.chosen(settings.EVODB), now_ms)
        commit(worker, home.pk, number, times, tables=tables)
        if not number:
            asked.clear()
    return statistics.median(times.wall_ms[1:]), len(asked) / FLUSHES


def upkeep(asked: list[str]) -> Iterator[tuple[str, float, int]]:
    """What a table of FILES files asks for: ms and requests of each piece of work, by a worker that knows nothing."""
    from django.conf import settings

    from lakehouse.catalog import lakes, storage
    from lakehouse.catalog.retention import Retention
    from lakehouse.catalog.upkeep import compaction, expiry, lease, rounds
    from lakehouse.clock import now_ms
    from lakehouse.current import refresh
    from lakehouse.flush.flow import Flusher
    from lakehouse.models import IcebergTable, Parent

    home = Parent.objects.create(name="upkeep", namespace="upkeep")
    worker = Flusher("benchmark", settings.EVODB, lakes.chosen(settings.EVODB), now_ms)
    for number in range(FILES):
        commit(worker, home.pk, number, Times())
    row = IcebergTable.objects.select_related("namespace").get(namespace__name="upkeep")
    newest = Retention(age_ms=0, newest=1, most=1)
    steps: dict[str, Callable[[Any], Any]] = {
        "small files merged": lambda keeper: compaction.compact(keeper, rounds.terms_of(settings.EVODB)),
        "old snapshots forgotten": lambda keeper: expiry.forget(keeper, newest),
        "their files deleted": lambda keeper: expiry.delete(keeper, before_ms=2**62),
        "a sweep that finds nothing": lambda keeper: rounds.sweep(keeper, settings.EVODB, is_dry_run=False),
        "a table of now made": lambda keeper: refresh.refresh(
            keeper.catalog, settings.EVODB, "upkeep", "orders", now_ms=now_ms
        ),
    }
    for name, step in steps.items():
        catalog = storage.from_settings(settings.EVODB)
        with lease.kept(row, catalog, lease_ms=60_000, now_ms=now_ms) as keeper:
            asked.clear()
            began = time.perf_counter()
            done = step(keeper)
            assert done is not None, name
            yield name, (time.perf_counter() - began) * 1000, len(asked)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    sys.exit(main())
