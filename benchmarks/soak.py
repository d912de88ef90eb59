"""Does anything grow that should not, in half an hour of steady work?

Question
  Do memory, open files, the database and the time of a commit stay flat?

Method
  daphne, worker and beat with their defaults but for EVODB_HISTORY_DAYS=0 (batches are remembered for the dedup window
  of five minutes, so that the database can come to its plateau), SQLite, a folder; SHOPS edge applications write and
  stream for MINUTES. Looked at every five seconds; medians of each third. In the end every change of every shop is
  compared with the lake.

Last answer (November 2026, 2 cores of a virtual machine on which torture and tests ran as well, CPython 3.11, SQLite)

                                first third    second      last   highest
    daphne, MiB                         112.3     113.2     114.0     114.2
    daphne, files                        19.0      19.0      19.0      19.0
    worker, MiB                         186.6     188.0     188.6     251.4
    worker, files                         3.0       3.0       3.0      11.0
    beat, MiB                            93.5      93.5      93.5      93.5
    beat, files                           3.0       3.0       3.0       3.0
    database, MiB                         6.5       9.7      12.6      13.0
    WAL, MiB                              7.4       7.5       7.5       7.5
    newest flush, ms                    614.5     806.0     416.0   2,700.0
    1 568 804 changes in 156 commits; each is in the lake once

  The database grows for twenty minutes and stays then: batches are forgotten every ten minutes when they are five
  minutes old, so it holds fifteen minutes of them, 56 000 rows. The worker's highest is a merge of files; before it
  gave freed memory back (lakehouse/allocation) it was 244, 259, 261 and at the highest 395 MiB.

    make soak      MINUTES=3 for the short one
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.watched import Look, Watch, files, mib
from lakehouse.torture import edge_app
from lakehouse.torture.compare import difference
from lakehouse.torture.house import House
from lakehouse.torture.process import until
from lakehouse.torture.services import free_port, listens

MINUTES = float(os.environ.get("MINUTES", "30"))
SHOPS = int(os.environ.get("SHOPS", "4"))
WRITES_PER_S_MAX = 20
PATIENCE_S = 600.0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="evodb-soak-") as name:
        settings = {"open": True, "up_port": free_port(), "history_days": 0}
        with House(Path(name) / "house", **settings) as house:
            return soak(house)


def soak(house: House) -> int:
    house.folder.mkdir()
    house.prepare()
    for process in (house.daphne, house.worker, house.beat):
        process.start()
    until(lambda: listens(house.settings.up_port), "daphne listens", house.daphne)
    shops = [house.child(f"shop-{n}", writes_per_s_max=WRITES_PER_S_MAX) for n in range(SHOPS)]
    for shop in shops:
        shop.process.start()
    with Watch(looks_of(house), every_s=5) as watch:
        time.sleep(MINUTES * 60)
    for shop in shops:
        assert shop.process.end(within_s=PATIENCE_S) == 0, shop.process.said
    house.manage("flush_buffers", within_s=PATIENCE_S)
    print(watch.table())
    wrong = [text for shop in shops if (text := difference(edge_app.ledger(shop.database), house.changes(shop.name)))]
    changes = sum(edge_app.written(shop.database) for shop in shops)
    print(f"{changes} changes in {house.commit_number()} commits; {wrong or 'each is in the lake once'}")
    return 1 if wrong else 0


def looks_of(house: House) -> dict[str, Look]:
    database = Path(house.settings.resolved_database_url.removeprefix("sqlite:///"))
    newest = "SELECT finished_ms - started_ms FROM lakehouse_flush WHERE state = 'committed' ORDER BY id DESC LIMIT 1"
    looks: dict[str, Look] = {}
    for process in (house.daphne, house.worker, house.beat):
        looks[f"{process.name}, MiB"] = mib(lambda process=process: process.pid)  # type: ignore[misc]
        looks[f"{process.name}, files"] = files(lambda process=process: process.pid)  # type: ignore[misc]
    looks["database, MiB"] = lambda: database.stat().st_size / 2**20
    looks["WAL, MiB"] = lambda: database.with_name(database.name + "-wal").stat().st_size / 2**20
    looks["newest flush, ms"] = lambda: float(next((row[0] for row in house.journal.rows(newest)), 0))
    return looks


if __name__ == "__main__":
    sys.exit(main())
