"""A catalog that is not ours, of pyiceberg's SQL kind in a file, and workers that die or sleep where they are told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from lakehouse.catalog import foreign
from lakehouse.catalog.foreign import ForeignLake
from lakehouse.conf import Settings
from lakehouse.fallback import settle
from lakehouse.fallback.transfer import Transfer
from lakehouse.flush import claim
from lakehouse.flush.flow import Flushed, Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import Source, accept
from lakehouse.query import duck
from rpc import failpoints
from rpc.failpoints import Failpoint
from tests.builders import NOW_MS


class Death(BaseException):
    """This worker is no more; nothing of it runs on."""


@dataclass
class Site:
    """One foreign catalog. A worker that comes later finds the leases of those before it ended."""

    settings: Settings
    monkeypatch: pytest.MonkeyPatch
    now_ms: int = NOW_MS
    _lakes: list[ForeignLake] = field(default_factory=list)
    _reader: Any = None
    _catalog: Catalog | None = None

    def lake(self) -> ForeignLake:
        """As a process of its own has it."""
        self._lakes.append(foreign.of(self.settings))
        return self._lakes[-1]

    @property
    def catalog(self) -> Catalog:
        """As somebody else has it."""
        if self._catalog is None:
            self._catalog = self.lake().catalog
        return self._catalog

    def worker(self, owner: str = "worker-1", *, settings: Settings | None = None) -> Flusher:
        return Flusher(owner, settings or self.settings, self.lake(), lambda: self.now_ms)

    def recovery(self, parent_id: int, owner: str = "worker-1") -> Transfer:
        return Transfer(parent_id, owner, self.settings, self.lake(), lambda: self.now_ms)

    def flush(self, shop: Source, worker: Flusher | None = None) -> Flushed | None:
        return (worker or self.worker()).run(shop.parent_id, trigger=FlushTrigger.MANUAL)

    def later(self) -> None:
        """Every lease of before has ended."""
        self.now_ms += self.settings.lease_ms + 1

    def table(self, name: str = "orders") -> Table:
        return self.catalog.load_table(("lake", name))

    def rows(self, name: str = "orders") -> list[int]:
        """The sequence of each row, as an engine that did not write them reads them."""
        if self._reader is None:
            self._reader = duck.connect(self.settings)
        scan = duck.scan(self.table(name).metadata_location)
        return [row[0] for row in self._reader.execute(f"SELECT _seq FROM {scan} ORDER BY _seq").fetchall()]

    @contextmanager
    def dying(self, point: Failpoint, visit: int = 1) -> Iterator[None]:
        """Whoever comes to this point is dead: nothing is given back, no lease is freed."""

        def die(_: Failpoint) -> None:
            raise Death

        with self.monkeypatch.context() as patch:
            patch.setitem(failpoints.ACTIONS, "fail", die)
            patch.setattr(claim, "give_back", lambda *_, **__: None)
            patch.setattr(settle, "abandon", lambda *_, **__: None)
            failpoints.arm(f"{point}=fail@{visit}")
            try:
                with pytest.raises(Death):
                    yield
            finally:
                failpoints.arm("")
        self.later()

    def meanwhile(self, owner: Any, name: str, happens: Callable[[], object], *, visit: int = 1) -> None:
        """Somebody sleeps just before the given call, and this happens before he wakes up."""
        usual, visits = getattr(owner, name), [0]

        def sleep(*args: Any, **kwargs: Any) -> Any:
            visits[0] += 1
            if visits[0] == visit:
                self.monkeypatch.setattr(owner, name, usual)
                happens()
            return usual(*args, **kwargs)

        self.monkeypatch.setattr(owner, name, sleep)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        for lake in self._lakes:
            if lake._opened is not None:
                lake._opened.close()


def settings_of(folder: Path, **more: Any) -> Settings:
    """A SQL catalog and its tables in this folder."""
    properties = {"uri": f"sqlite:///{folder}/catalog.sqlite3", "warehouse": f"{folder}/warehouse"}
    return Settings(data_dir=folder, catalog="sql", catalog_properties=json.dumps(properties), **more)


@contextmanager
def a_site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(settings_of(folder), monkeypatch)
    try:
        yield made
    finally:
        failpoints.arm("")
        made.close()


def put(shop: Source, *batches: Any) -> None:
    accept([(shop, batch) for batch in batches], now_ms=NOW_MS)


def expire(site: Site, name: str = "orders") -> None:
    """All snapshots but the newest, which somebody else made, as the one before it."""
    somebody_appends(site, name)
    somebody_appends(site, name)
    table = site.table(name)
    newest = table.metadata.current_snapshot_id
    old = [one.snapshot_id for one in table.metadata.snapshots if one.snapshot_id != newest]
    table.maintenance.expire_snapshots().by_ids(old).commit()


def somebody_appends(site: Site, name: str = "orders") -> None:
    """A commit of another writer, without rows."""
    table = site.table(name)
    with table.transaction() as change, change.update_snapshot().fast_append():
        pass


def unset(site: Site, marker: str, name: str = "orders") -> None:
    """Somebody takes our property away."""
    with site.table(name).transaction() as change:
        change.remove_properties(marker)


__all__ = ["Death", "Site", "a_site", "expire", "put", "settings_of", "somebody_appends", "unset"]
