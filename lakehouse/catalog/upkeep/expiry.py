"""Old snapshots are forgotten first and deleted later, each in steps that may die and be repeated.

Forgetting is a commit; the same transaction remembers in rows what was forgotten. When those rows are old enough, the
files that only forgotten snapshots reach are deleted: data before the manifests that name it, manifests before their
lists, and the rows last. What a retained snapshot reaches is never deleted, nor what one forgotten lately reaches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from pyiceberg.table import Table

from lakehouse.catalog import deleting
from lakehouse.catalog.retention import Retention, forgetting, is_collected
from lakehouse.catalog.staging import Change, Staging
from lakehouse.catalog.upkeep import reachable
from lakehouse.catalog.upkeep.folders import is_inside, is_ours
from lakehouse.catalog.upkeep.lease import Keeper
from lakehouse.catalog.upkeep.reading import told
from lakehouse.models import ForgottenSnapshot

log = logging.getLogger(__name__)

SNAPSHOTS_AT_ONCE = 200


@dataclass(slots=True)
class Expired:
    forgotten: int = 0
    """Snapshots."""
    deleted: int = 0
    """Files."""
    paths: list[str] = field(default_factory=list)
    """Which they were, as far as somebody wants to know."""

    def __add__(self, other: Expired) -> Expired:
        return Expired(self.forgotten + other.forgotten, self.deleted + other.deleted, self.paths + other.paths)

    def __bool__(self) -> bool:
        return bool(self.forgotten or self.deleted)

    def __str__(self) -> str:
        return f"{self.forgotten} snapshots forgotten, {self.deleted} files deleted"


def forget(keeper: Keeper, retention: Retention) -> Expired:
    """Forget what the table need not name any more.

    Raises CommitConflict, DamagedTable, LeaseLost or StoreUnavailable.
    """
    staging = Staging(keeper.catalog)
    table = keeper.load(staging)
    updates = forgetting(table.metadata, retention, now_ms=keeper.now_ms())
    if not updates:
        return Expired()
    expected = table.metadata_location
    change = Change(table)
    change._apply(updates)
    with told(f"the metadata of {keeper.row} cannot be written"):
        change.commit_transaction()
    keeper.commit(staging, expected=expected)
    return Expired(forgotten=len(staging.forgotten))


def delete(
    keeper: Keeper, *, before_ms: int, until: Callable[[], bool] = lambda: False, is_told: bool = False
) -> Expired:
    """Delete the files of snapshots forgotten before that: some always, more before `until`.

    Raises DamagedTable, LeaseLost or StoreUnavailable; repeat it then.
    """
    done = Expired()
    for number in count():
        if number and until():
            break
        due = list(keeper.row.forgotten.filter(forgotten_ms__lte=before_ms).order_by("pk")[:SNAPSHOTS_AT_ONCE])
        if not due:
            break
        keeper.renew()
        table = keeper.load()
        if not is_collected(table.metadata) or not is_ours(table, keeper.row, keeper.catalog):
            log.info("files of %d snapshots of %s stay: they are not ours to delete", len(due), keeper.row)
            _settle(due)
            continue
        # Asked after the table was read: what is forgotten in between is in neither and not due.
        later = list(keeper.row.forgotten.exclude(pk__in=[one.pk for one in due]))
        with told(f"files of {keeper.row} cannot be read or deleted"):
            for files in _steps(table, due, later):
                inside = [path for path in files if is_inside(path, table)]
                done.deleted += deleting.remove(table.io, inside)
                done.paths += inside if is_told else []
        _settle(due)
    return done


def _settle(due: Iterable[ForgottenSnapshot]) -> None:
    ForgottenSnapshot.objects.filter(pk__in=[one.pk for one in due]).delete()


def _steps(table: Table, due: Sequence[ForgottenSnapshot], later: Sequence[ForgottenSnapshot]) -> Iterator[set[str]]:
    """What to delete, one set after the other."""
    named = reachable.manifest_lists(table.metadata)
    young = [one.manifest_list for one in later]
    kept = reachable.manifests(table.io, named) | reachable.manifests(table.io, young, missing_ok=True)
    lists = {one.manifest_list for one in due} - {*named, *young}
    gone = reachable.manifests(table.io, lists, missing_ok=True).keys() - kept.keys()
    asked: set[str] = set()
    for _, entries in reachable.each(table.io, gone):
        # A missing one was deleted by whoever began this and died, and before it what it named.
        with suppress(FileNotFoundError):
            asked.update(entry.path for entry in entries())
    yield reachable.unreached(table.io, asked, kept)
    yield gone
    statistics = {path for one in due for path in one.statistics} - {path for one in later for path in one.statistics}
    yield lists | (statistics - reachable.named_files(table.metadata, table.metadata_location))
