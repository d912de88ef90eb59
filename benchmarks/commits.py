"""Does a commit stay as fast as it was, after thousands of them?

Question
  After COMMITS small flushes into one table: is the median of the last 50 at most 1.5 times that of the first 50?

Method
  One process, SQLite (WAL, FULL), a folder. A flush moves a batch of 20 entries of 19 keys from the journal into its
  table, as a worker does; measured is all of it, wall clock and CPU. Three ways: with a round of
  upkeep after each UPKEEP_EVERY flushes, as the beat has one a minute (its time is not the commits';
  EVODB_FORGOTTEN_HOURS=0, so that it deletes files here), with the settings' bound but no upkeep, and with every
  snapshot kept, as pyiceberg does by itself. The last 50 are by turns with the first 50 of another table: a virtual
  machine is at one minute half as fast again as at the next one.
  In the end the rows are counted by DuckDB. Files: in the folder, and data files that the table names.

Last answer (November 2026, 2 cores of a virtual machine; the second run found 1.11)

    ms a commit, median of    first 50  last 50  ratio  CPU ratio  slowest  upkeep   files  data files
      bounded, with upkeep        28.0     33.0   1.18       1.18      237      82     520           4

    make bench-commits      COMMITS=300 for the short one
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

COMMITS = int(os.environ.get("COMMITS", "2000"))
UPKEEP_EVERY = int(os.environ.get("UPKEEP_EVERY", "10"))
ENTRIES, KEYS, SOME = 20, 19, 50
DAY_MS = 86_400_000
WAYS = {
    "bounded, with upkeep": {"forgotten_hours": 0},
    "bounded, no upkeep": {},
    "every snapshot kept": {"snapshots_max": 10**9},
}


@dataclass
class Times:
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    upkeep_ms: list[float] = field(default_factory=list)

    @cached_property
    def new(self) -> Times:
        """Of a table that is made when this one is old."""
        return Times()


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="evodb-commits-"))
    os.environ |= {"EVODB_DATA_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "evodb_site.settings"}
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    print(
        f"{'ms a commit, median of':24}{'first 50':>10}{'last 50':>9}{'ratio':>7}{'CPU ratio':>11}{'slowest':>9}",
        end="",
    )
    print(f"{'upkeep':>8}{'files':>8}{'data files':>12}")
    worst = 0.0
    for name, changes in WAYS.items():
        times, files, named = way(name, changes, is_kept="with upkeep" in name)
        first, last, ratio = ends(times.new.wall_ms, times.wall_ms)
        cpu = ends(times.new.cpu_ms, times.cpu_ms)[2]
        upkeep = statistics.median(times.upkeep_ms) if times.upkeep_ms else 0
        print(f"  {name:22}{first:10.1f}{last:9.1f}{ratio:7.2f}{cpu:11.2f}{max(times.wall_ms):9.0f}", end="")
        print(f"{upkeep:8.0f}{files:8}{named:12}", flush=True)
        worst = max(worst, ratio) if "with upkeep" in name else worst
    return 0 if worst <= 1.5 else 1


def ends(new: list[float], old: list[float]) -> tuple[float, float, float]:
    first, last = statistics.median(new[:SOME]), statistics.median(old[-SOME:])
    return first, last, last / first


def way(name: str, changes: dict[str, Any], *, is_kept: bool) -> tuple[Times, int, int]:
    from django.conf import settings as django_settings

    from lakehouse.catalog import lakes, storage
    from lakehouse.catalog.upkeep import rounds
    from lakehouse.clock import now_ms
    from lakehouse.flush.flow import Flusher
    from lakehouse.models import IcebergTable, Parent
    from lakehouse.query import duck

    namespace = name.replace(" ", "_").replace(",", "")
    settings = replace(django_settings.EVODB, **changes)
    home, other = (Parent.objects.create(name=name, namespace=name) for name in (namespace, f"new_{namespace}"))
    catalog = storage.from_settings(settings)
    flusher = Flusher("benchmark", settings, lakes.chosen(settings), now_ms)
    times = Times()
    for number in range(COMMITS):
        commit(flusher, home.pk, number, times)
        if number >= COMMITS - SOME:
            commit(flusher, other.pk, number, times.new)
        if is_kept and number % UPKEEP_EVERY == UPKEEP_EVERY - 1:
            began = time.perf_counter()
            rounds.go(catalog, settings, now_ms=now_ms, until=lambda: False)
            times.upkeep_ms.append((time.perf_counter() - began) * 1000)
    table = catalog.load_table((namespace, "orders"))
    with duck.connect() as connection:
        place = duck.scan(IcebergTable.objects.get(namespace__name=namespace).metadata_location)
        [(rows, distinct)] = connection.execute(f"SELECT count(*), count(DISTINCT _seq) FROM {place}").fetchall()
    assert rows == distinct == COMMITS * ENTRIES, f"{rows} rows, {distinct} of them different"
    files = sum(path.is_file() for path in Path(table.location()).rglob("*"))
    return times, files, len(table.inspect.files())


def commit(flusher: Any, parent_id: int, number: int, times: Times, *, tables: int = 1) -> None:
    """A flush of ENTRIES, spread over so many tables."""
    from lakehouse.flush.policy import FlushTrigger

    journal(parent_id, number, tables=tables)
    wall, cpu = time.perf_counter(), time.process_time()
    flusher.run(parent_id, trigger=FlushTrigger.MANUAL)
    times.wall_ms.append((time.perf_counter() - wall) * 1000)
    times.cpu_ms.append((time.process_time() - cpu) * 1000)


def journal(parent_id: int, number: int, *, tables: int, keys: int = KEYS, days: int = 1) -> None:
    """A batch of ENTRIES, or of as many days, spread over so many tables, waits to be flushed."""
    from lakehouse.clock import now_ms
    from lakehouse.journal.accept import Source, accept
    from lakehouse.models import Child
    from rpc import batch, columns
    from rpc.entries import RawEntry

    child, _ = Child.objects.get_or_create(parent_id=parent_id, name="shop")
    count, now = max(ENTRIES, days), now_ms()
    first = number * count + 1
    document = "{" + ",".join(f'"key_{at}":{number + at}' for at in range(keys)) + "}"
    names = [b"orders", *(b"orders_%d" % at for at in range(1, tables))]
    entries = [
        RawEntry(at, now - at % days * DAY_MS, 0, names[at % tables], b"r%d" % at, b"", document.encode())
        for at in range(first, first + count)
    ]
    wire = batch.encode(
        columns.encode(entries),
        encoding=batch.Encoding.COLUMNS,
        entry_count=count,
        source="shop",
        sequence=number + 1,
        timestamp_ms=now,
        correlation_id=None,
    )
    accept([(Source(parent_id, child.pk, 1, True), batch.read(wire))], now_ms=now)


if __name__ == "__main__":
    import logging

    logging.disable(logging.INFO)
    sys.exit(main())
