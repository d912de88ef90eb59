"""How long does a flush into a bucket take, and how often does it ask?

Question
  Wall clock and requests of a flush into S3, if each request takes LATENCY_MS, as between a worker and another city.

Method
  rclone's S3 on this machine, behind a proxy that counts and waits before it passes a request on. A parent on SQLite;
  each flush has 20 entries of 19 keys, for one table or spread over ten, and is run as a worker runs it. Medians of
  FLUSHES, after one that makes the tables. Three workers: one that wrote these tables, as when there is one worker;
  a new one for each flush, as when there are many; and one that writes table after table.

Last answer (November 2026, 2 cores of a virtual machine, LATENCY_MS=50, FLUSHES=10)

    ms and requests of a flush           1 table         10 tables
      who wrote these tables            299    4.0        712   40.0
      a new worker each time            519    8.0       2665   80.0
      table after table                 275    4.0       2578   40.0

  When everything was asked that could be, a table was 24 requests and 1.57 s (docs/decisions/0020). What a worker does
  not know it still reads table after table.

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
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.commits import Times, commit

FLUSHES = int(os.environ.get("FLUSHES", "20"))
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


if __name__ == "__main__":
    logging.disable(logging.INFO)
    sys.exit(main())
