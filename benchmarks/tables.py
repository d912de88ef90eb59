"""What does a table of ROWS rows cost once it is there: merging its files, keeping its table of now, asking it?

Questions
  1. How many MB/s of small files does one worker merge, and how many rows/s?
  2. How long does a table of now take: made from nothing, after 1 % of the rows changed, after all of them did?
  3. How long does a query take, one at a time: a point (one row id, its day known or not), a range (the sum of a day),
     a group-by over all rows?

Method
  One process, SQLite, a folder. Rows come as Arrow payloads by way of the journal, in flushes of 100 000, each row with
  8 columns of its own in 180 bytes; each thousand of them is of another of 30 days, so a flush writes 30 files. Wall
  clock and CPU of the process, of queries the median of ASKED after one that does not count, by the engine that
  POST /query asks (its processes' CPU is not in it). Merging is by `lake compact --all`. "1 %" and "100 %" are updates,
  whose flushes are not measured; they touch all buckets of the table of now, so all of it is written anew.

Last answer (November 2026, 2 cores of a virtual machine at idle priority; CPython 3.11; 1 000 000 rows)

    1000000 rows flushed                      14.59 s      8.72 s CPU
    300 files of 27 MB merged                  8.26 s      7.22 s CPU   300 files became 30; 3.7 MB/s, 138 570 rows/s
    a table of now, from nothing               4.85 s      5.09 s CPU
    a table of now, 1 % changed                2.14 s      2.06 s CPU
    a table of now, 100 % changed              3.44 s      5.44 s CPU
    a point, its day known                       90 ms   79 at best
    a point of any day                           85 ms   81 at best
    a range, a day of 30                         78 ms   73 at best
    a group-by of all                           131 ms   117 at best
    a group-by of all, of now                    48 ms   46 at best

  10 000 000 rows, beside work that took half the machine

    10000000 rows flushed                     94.36 s     72.44 s CPU
    3000 files of 265 MB merged               54.92 s     50.94 s CPU   3000 files became 30; 5.2 MB/s, 196 309 rows/s
    a table of now, from nothing              64.19 s     90.76 s CPU
    a table of now, 1 % changed               12.19 s     14.59 s CPU
    a table of now, 100 % changed             78.71 s    109.26 s CPU
    a point, its day known                      396 ms   356 at best
    a point of any day                          488 ms   403 at best
    a range, a day of 30                        426 ms   372 at best
    a group-by of all                          1115 ms   1011 at best
    a group-by of all, of now                   209 ms   181 at best

  MB are those of the files, which have 27 bytes for each row's 180: rows/s is the better figure. Most of a query of
  50 ms is its process and reading metadata. The first four ask the table after its updates, of 2.01 times its rows.
  A py-spy profile of merging 90 files into 30 named what was mended after this run: a schema and a reader were made for
  each look into a manifest (by turns 3.5 and 3.6 -> 1.9 and 2.3 s of CPU).

    make bench-tables      ROWS=100000 for the short one, ROWS=10000000 for the long one
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

ROWS = int(os.environ.get("ROWS", "1000000"))
AT_ONCE, BATCH = 100_000, 1000
DAYS, DAY_MS = 30, 86_400_000
FIRST_MS = 1_760_000_000_000 // DAY_MS * DAY_MS
ASKED = 7


def main() -> int:
    folder = tempfile.mkdtemp(prefix="evodb-tables-")
    os.environ |= {"EVODB_DATA_DIR": folder, "DJANGO_SETTINGS_MODULE": "evodb_site.settings"}
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    house = House()
    with told(f"{ROWS} rows flushed"):
        house.write(range(ROWS), 0)
    merge(house)
    with told("a table of now, from nothing"):
        refresh()
    dice = random.Random(0)
    for share, ids in ((1, sorted(dice.sample(range(ROWS), ROWS // 100))), (100, range(ROWS))):
        house.write(ids, 1)
        with told(f"a table of now, {share} % changed"):
            refresh()
    asyncio.run(ask())
    return 0


@contextmanager
def told(what: str) -> Iterator[Callable[[str], None]]:
    said: list[str] = []
    wall, cpu = time.perf_counter(), time.process_time()
    yield said.append
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    more = "; ".join(one.format(wall=wall, cpu=cpu) for one in said)
    print(f"  {what:38}{wall:9.2f} s {cpu:9.2f} s CPU   {more}", flush=True)


class House:
    """A parent with a child."""

    def __init__(self) -> None:
        from django.conf import settings as django_settings

        from lakehouse.catalog import lakes
        from lakehouse.clock import now_ms
        from lakehouse.flush.flow import Flusher
        from lakehouse.models import Child, Parent

        config = {"current_state": True, "max_buffer_bytes": 2**40, "max_buffer_entries": 2**40}
        self.home = Parent.objects.create(name="bench", namespace="lake", config=config)
        self.child = Child.objects.create(parent=self.home, name="shop")
        self.flusher = Flusher("benchmark", django_settings.EVODB, lakes.chosen(django_settings.EVODB), now_ms)
        self.batches, self.sequence = 0, 1

    def write(self, ids: Sequence[int], version: int) -> None:
        from lakehouse.flush.policy import FlushTrigger

        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            for first in range(0, len(some), BATCH):
                self._accept(some[first : first + BATCH], version)
            flushed = self.flusher.run(self.home.pk, trigger=FlushTrigger.MANUAL)
            assert flushed is not None
            assert (flushed.entries, flushed.dead_letters) == (len(some), 0)

    def _accept(self, ids: Sequence[int], version: int) -> None:
        import pyarrow as pa

        from benchmarks.codec import document
        from lakehouse.clock import now_ms
        from lakehouse.journal.accept import Source, accept
        from rpc import arrow_payload, batch

        made = [document(number) | {"quantity": number * 7 + version} for number in ids]
        at_ms = FIRST_MS + ids[0] // BATCH % DAYS * DAY_MS
        payload = arrow_payload.of_table(
            pa.table({key: [one[key] for one in made] for key in made[0]}),
            pa.array([f"r{number}" for number in ids]),
            table="orders",
            first_sequence=self.sequence,
            timestamp_ms=at_ms,
        )
        self.batches, self.sequence = self.batches + 1, self.sequence + len(ids)
        wire = batch.encode(
            payload,
            encoding=batch.Encoding.COLUMNS,
            entry_count=len(ids),
            source="shop",
            sequence=self.batches,
            timestamp_ms=at_ms,
            correlation_id=None,
        )
        accept([(Source(self.home.pk, self.child.pk, 1, True), batch.read(wire, documents=True))], now_ms=now_ms())


def merge(house: House) -> None:
    from lakehouse.catalog import storage
    from lakehouse.catalog.upkeep import compaction, lease, rounds
    from lakehouse.clock import now_ms
    from lakehouse.models import IcebergTable

    settings = house.flusher.settings
    catalog = storage.from_settings(settings)
    files = catalog.load_table(("lake", "orders")).inspect.files().to_pylist()
    size = sum(one["file_size_in_bytes"] for one in files) / 1e6
    row = IcebergTable.objects.select_related("namespace").get(name="orders", namespace__name="lake")
    terms = compaction.Terms(target_bytes=settings.target_file_bytes, files_min=1, is_tiered=False)
    assert terms.engine == rounds.terms_of(settings).engine
    with lease.kept(row, catalog, lease_ms=settings.lease_ms, now_ms=now_ms) as keeper:
        assert keeper is not None
        before = time.process_time()
        with told(f"{len(files)} files of {size:.0f} MB merged") as say:
            done = compaction.compact(keeper, terms)
            seconds = time.process_time() - before
            share = sum(one["record_count"] for one in files)
            say(f"{done}; of CPU {size * done.rows / share / seconds:.1f} MB/s, {done.rows / seconds:,.0f} rows/s")


def refresh() -> None:
    from django.conf import settings as django_settings

    from lakehouse.catalog import storage
    from lakehouse.clock import now_ms
    from lakehouse.current import refresh as current

    settings = django_settings.EVODB
    found = current.refresh(storage.from_settings(settings), settings, "lake", "orders", now_ms=now_ms)
    assert found is not None
    assert found.rows <= ROWS


async def ask() -> None:
    from asgiref.sync import sync_to_async
    from django.conf import settings as django_settings

    from lakehouse.query import lake_tables
    from lakehouse.query.engine import Engine, Query

    begins, ends = ((FIRST_MS + number * DAY_MS) // 1000 for number in (7, 8))
    day = f"_ts >= to_timestamp({begins}) AND _ts < to_timestamp({ends})"
    row = f"r{7 * BATCH + 11}"
    asked = {
        "a point, its day known": f"SELECT * FROM orders WHERE _row_id = '{row}' AND {day}",
        "a point of any day": f"SELECT * FROM orders WHERE _row_id = '{row}'",
        "a range, a day of 30": f"SELECT count(*), sum(total) FROM orders WHERE {day}",
        "a group-by of all": "SELECT customer, count(*), sum(total) FROM orders GROUP BY customer",
        "a group-by of all, of now": "SELECT customer, count(*), sum(total) FROM current.orders GROUP BY customer",
    }

    async def find(names: Any) -> Any:
        return await sync_to_async(lake_tables.places)(names, allows=lambda _: True)

    engine = Engine(django_settings.EVODB)
    try:
        for what, sql in asked.items():
            times = []
            for _ in range(ASKED + 1):
                began = time.perf_counter()
                answer = await engine.run(Query(sql=sql), find=find)
                times.append((time.perf_counter() - began) * 1000)
            assert answer.rows
            print(f"  {what:38}{statistics.median(times[1:]):9.0f} ms   {min(times[1:]):.0f} at best", flush=True)
    finally:
        await engine.close()


if __name__ == "__main__":
    import logging

    logging.disable(logging.INFO)
    sys.exit(main())
