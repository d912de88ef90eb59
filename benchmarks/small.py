"""What does a flush cost of which there are many: a few rows, a worker that is warm?

Question
  CPU of a flush of 20 entries of 19 keys, if they are for one table, and if they are for ten.

Method
  One process, SQLite (WAL, FULL), a folder, flushes as a worker does them. Measured is the CPU of the whole process
  (all its threads); accepting the batch does not count. Medians of FLUSHES, after some that do not count. Beside them:
  a hundred parents by turns, of which each has a table of its own, a table of 1000 columns, and 365 days in one flush.

Last answer (November 2026, 2 cores of a virtual machine that others used, FLUSHES=60; medians of three by turns with
what was there before, the first without the last two changes; means of two for the hundred parents and the columns)

    ms of CPU a flush          before     now
      one table                    37      26
      ten tables                  244     146
      100 parents by turns         37      28
      1000 columns               1010     259
      365 days                   1816    1261

  Of one table, by step: 9 ms are the database's 28 statements, most of it Django's composing of them; 3.7 Parquet, 2.1
  manifest and list, 1.6 the metadata file and what syncs the files, 4.2 entries that become columns, 1.1 sums that
  verify compares. What went were walks through the columns for each file (3 ms), plans of manifests (2), threads that
  had nothing to wait for, nine statements (3), and for wide tables a search for each column's name in a list of all.

    make bench-small        FLUSHES=60 for the short one; python -m benchmarks.small 'ten tables' for one of them
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time

from benchmarks.commits import KEYS, journal

FLUSHES = int(os.environ.get("FLUSHES", "200"))
WARM = 25


def main() -> int:
    folder = tempfile.mkdtemp(prefix="evodb-small-")
    os.environ |= {"EVODB_DATA_DIR": folder, "DJANGO_SETTINGS_MODULE": "evodb_site.settings"}
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    print(f"{'ms of CPU a flush':24}{'median':>9}{'wall':>9}")
    for name, arguments in WAYS.items():
        if len(sys.argv) < 2 or any(one in name for one in sys.argv[1:]):
            cpu, wall = way(name, **arguments)
            print(f"  {name:22}{cpu:9.1f}{wall:9.1f}", flush=True)
    return 0


WAYS: dict[str, dict[str, int]] = {
    "one table": {},
    "ten tables": {"tables": 10},
    "100 parents by turns": {"parents": 100},
    "1000 columns": {"keys": 1000, "flushes": 20},
    "365 days": {"days": 365, "flushes": 6},
}


def way(
    name: str, *, tables: int = 1, parents: int = 1, keys: int = KEYS, days: int = 1, flushes: int = FLUSHES
) -> tuple[float, float]:
    from django.conf import settings

    from lakehouse.catalog import lakes
    from lakehouse.clock import now_ms
    from lakehouse.flush.flow import Flusher
    from lakehouse.flush.policy import FlushTrigger
    from lakehouse.models import Parent

    names = [f"{name}{at}".replace(" ", "_") for at in range(parents)]
    homes = [Parent.objects.create(name=one, namespace=one) for one in names]
    flusher = Flusher("benchmark", settings.EVODB, lakes.chosen(settings.EVODB), now_ms)
    cpu, wall = list[float](), list[float]()
    warm = min(WARM, flushes // 2) if parents == 1 else parents
    for number in range(flushes + warm):
        home = homes[number % parents]
        journal(home.pk, number, tables=tables, keys=keys, days=days)
        began, spent = time.perf_counter(), time.process_time()
        done = flusher.run(home.pk, trigger=FlushTrigger.MANUAL)
        cpu.append((time.process_time() - spent) * 1000)
        wall.append((time.perf_counter() - began) * 1000)
        assert done is not None
        assert len(done.staged) == tables, done
    return statistics.median(cpu[warm:]), statistics.median(wall[warm:])


if __name__ == "__main__":
    import logging

    logging.disable(logging.INFO)
    sys.exit(main())
