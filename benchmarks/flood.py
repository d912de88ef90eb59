"""What happens when four gigabytes meet an object store that takes 5 MB a second?

Question
  Does the memory of parent and worker stay flat and below 400 MiB, does everything arrive once, and do children hold
  back instead of being lost?

Method
  daphne, worker and beat with their defaults, S3 (rclone) behind a proxy that passes MB_PER_S megabytes a second. Four
  children, processes of their own, send documents of 10 kB which nothing compresses, GB gigabytes in all, as fast as
  they are let. Memory is looked at every second, of the largest process of each program. In the end the proxy lets
  everything through, and the rows are counted by DuckDB and compared by `manage.py verify`.

Last answer (November 2026, 2 cores of a virtual machine on which the tests ran as well, CPython 3.11)

    4.0 GB in 2250 s; 400 000 of 400 000 documents, each once; the sums of children and tables agree
                                first third    second      last   highest
    daphne, MiB                         130.1     130.4     130.3     136.0
    worker, MiB                         285.4     292.9     300.2     308.5

  80 MiB of the worker are libraries it shares with the others; before it gave freed memory back (lakehouse/allocation)
  it was 314.6, 340.1, 352.3 and at the highest 400.2. Each child held back some 1 900 times of 2 000 calls and dropped
  nothing; it sent a batch six times before there was room for it.

    make bench-flood      GB=0.2 for the short one
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.flood_child import DOCUMENT_BYTES
from benchmarks.watched import Watch, mib_largest
from lakehouse.query import duck
from lakehouse.torture.flaky_store import FlakyStore
from lakehouse.torture.house import House
from lakehouse.torture.process import until
from lakehouse.torture.services import S3, free_port, listens

GB = float(os.environ.get("GB", "4"))
MB_PER_S = float(os.environ.get("MB_PER_S", "5"))
CHILDREN = 4
MIB_MAX = 400
PATIENCE_S = 3600.0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="evodb-flood-") as name:
        folder = Path(name)
        s3 = S3(folder)
        s3.start()
        store = FlakyStore(s3.port, random.Random(0), bytes_per_s=MB_PER_S * 1e6)
        try:
            with House(folder / "house", open=True, up_port=free_port(), **s3.settings(store.port)) as house:
                return flood(house, store)
        finally:
            store.close()
            s3.close()


def flood(house: House, store: FlakyStore) -> int:
    house.folder.mkdir()
    house.prepare()
    for process in (house.daphne, house.worker, house.beat):
        process.start()
    until(lambda: listens(house.settings.up_port), "daphne listens", house.daphne)
    documents = round(GB * 1e9 / DOCUMENT_BYTES / CHILDREN)
    begun = time.monotonic()
    looks = {"daphne, MiB": mib_largest(lambda: house.daphne.pid), "worker, MiB": mib_largest(lambda: house.worker.pid)}
    with Watch(looks) as watch:
        said = [json.loads(child.communicate()[0]) for child in [start(house, n, documents) for n in range(CHILDREN)]]
        house.manage("flush_buffers", within_s=PATIENCE_S)
        until(lambda: not waiting(house), "everything is in its table", house.worker, within_s=PATIENCE_S)
    took_s = time.monotonic() - begun
    store.bytes_per_s = None
    found = [counted(house), documents * CHILDREN]
    print(f"{GB} GB in {took_s:.0f} s, {GB * 1e3 / took_s:.1f} MB/s; {found[0]} of {found[1]} documents, each once")
    print(f"children: {json.dumps(said)}")
    print(watch.table())
    print(house.manage("verify", within_s=PATIENCE_S))
    is_small = all(max(values) < MIB_MAX for values in watch.seen.values())
    held_back = all(one["paused"] and not one["dropped"] and not one["error"] for one in said)
    return 0 if is_small and held_back and found[0] == found[1] else 1


def start(house: House, number: int, documents: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.flood_child", house.url, f"shop-{number}", str(house.folder)]
    return subprocess.Popen([*command, str(documents)], stdout=subprocess.PIPE, text=True)


def waiting(house: House) -> int:
    return int(house.journal.one("SELECT count(*) FROM lakehouse_batchpayload"))


def counted(house: House) -> int:
    """Documents of the lake; -1 when one is there twice."""
    [location] = [row[0] for row in house.journal.rows("SELECT metadata_location FROM lakehouse_icebergtable")]
    with duck.connect(house.settings) as connection:
        columns = "count(*), count(DISTINCT (_source, _row_id))"
        [(rows, once)] = connection.execute(f"SELECT {columns} FROM {duck.scan(location)}").fetchall()
    return int(rows) if rows == once else -1


if __name__ == "__main__":
    sys.exit(main())
