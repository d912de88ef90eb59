"""Everything that runs during a torture: services, a house with two workers, and the shops that stream into it."""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lakehouse import up
from lakehouse.torture.erasure import Erasure
from lakehouse.torture.flaky_store import FlakyStore
from lakehouse.torture.house import Child, House
from lakehouse.torture.process import Process, until
from lakehouse.torture.services import S3, Postgres, Redis, Service, free_port, listens

LEASE_MS = 1500
EAGER = {"flush_threshold_entries": 400, "flush_threshold_ms": 400, "flush_interval_ms": 400}
NOW = {"current_state": True}
UPKEEP = {"snapshots_max": 6, "snapshots_newest": 2, "compact_files_min": 4}
"""So that the beat's upkeep finds work within a round."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a town is made of."""

    database: str = "sqlite"
    lake: str = "folder"
    children: int = 3
    writes_per_s_max: float = 25

    def __str__(self) -> str:
        return f"{self.database}, {self.lake}, {self.children} children"


class Town:
    """Start it with `with`; everything of it is gone afterwards, but for the folder."""

    def __init__(self, folder: Path, plan: Plan, dice: random.Random) -> None:
        self.plan = plan
        self.services: list[Service] = []
        self.store: FlakyStore | None = None
        self.shops: list[Child] = []
        self.guests: list[Child] = []
        """They wrote something, sent it and left."""
        self.erasures: list[Erasure] = []
        """Begun in this round; some of them died."""
        self._stack = ExitStack()
        settings: dict[str, object] = {"open": True, "lease_ms": LEASE_MS, "up_port": free_port(), **UPKEEP}
        self.house = House(folder / "house", **settings | self._services(folder, dice))
        self.house.folder.mkdir(parents=True, exist_ok=True)
        self.parents = [self.house.daphne]
        self.workers = [self.house.worker, self.house.another("worker-2", up.worker().argv)]
        self.second_beat = self.house.another("beat-2", up.beat().argv)

    @property
    def is_sqlite(self) -> bool:
        return self.plan.database == "sqlite"

    def everybody(self) -> list[Process]:
        """Who is meant to run."""
        return [*self.parents, *self.workers, self.house.beat, *(shop.process for shop in self.shops)]

    def __enter__(self) -> Town:
        try:
            self._stack.enter_context(self.house)
            self.house.prepare(**EAGER, **NOW)
            for process in self.everybody():
                process.start()
            until(lambda: listens(self.house.settings.up_port), "daphne listens", self.house.daphne)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _services(self, folder: Path, dice: random.Random) -> dict[str, object]:
        """Start what the plan wants; gives the settings by which a house reaches it."""
        settings: dict[str, object] = {}
        if self.plan.database == "postgresql":
            database, broker = Postgres(folder), Redis(folder)
            for service in (database, broker):
                self._stack.callback(service.close)
                service.start()
                self.services.append(service)
            settings |= {"database_url": database.url, "broker_url": broker.url, "redis_url": broker.url}
        if self.plan.lake == "s3":
            s3 = S3(folder)
            self._stack.callback(s3.close)
            s3.start()
            self.services.append(s3)
            self.store = FlakyStore(s3.port, dice)
            self._stack.callback(self.store.close)
            settings |= s3.settings(self.store.port)
        return settings
