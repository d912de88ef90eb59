"""`manage.py lake`: what the lake holds, and keeping it in order by hand; the beat does the same all the time."""

from __future__ import annotations

import dataclasses
import logging
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db.models import QuerySet, Sum
from django.template.defaultfilters import filesizeformat
from pyiceberg.manifest import ManifestContent
from pyiceberg.table import Table

from lakehouse import rewrite_choice
from lakehouse.catalog import foreign_tables, lakes, retention, storage
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.lake import Lake
from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.catalog.storage import from_settings
from lakehouse.catalog.table_properties import number
from lakehouse.catalog.upkeep import compaction, expiry, lease, reachable, rounds
from lakehouse.catalog.upkeep.foreign_keeper import ForeignKeeper
from lakehouse.catalog.upkeep.lease import Keeper
from lakehouse.catalog.upkeep.reading import STRANGE
from lakehouse.catalog.upkeep.tending import Tender
from lakehouse.catalog_choice import elsewhere
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.errors import LakehouseError
from lakehouse.management.operation import Operation
from lakehouse.models import FlushTable, IcebergTable, Parent, TableUpkeep
from lakehouse.query import duck

log = logging.getLogger(__name__)

ACTIONS = """
stats     tables, rows, commits, files, history, and how to look at them
upkeep    all that follows, as the beat does it
compact   merge small files of a partition into large ones, sorted by row
expire    forget old snapshots, and delete the files of those forgotten EVODB_FORGOTTEN_HOURS ago
orphans   tell which files no snapshot names, and delete them when told to
"""


OPTIONS = {
    "expire": {
        "hours": "forget snapshots older than that",
        "keep": "but never the newest so many of a table",
        "grace-hours": "delete files of snapshots forgotten so long ago",
    },
    "orphans": {"older-hours": "only files older than that"},
    "compact": {"files": "where there are so many of about one size"},
}
FLAGS = {
    "orphans": {"delete": "delete them; without it they are only told"},
    "compact": {"all": "whatever is smaller than the target, however few"},
}
SETTINGS = {
    "hours": "snapshot_hours",
    "keep": "snapshots_newest",
    "grace_hours": "forgotten_hours",
    "older_hours": "orphan_hours",
    "files": "compact_files_min",
}


class Command(Operation):
    help = "Show the tables of the lake and keep them in order (docs/upkeep.md)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        for line in ACTIONS.strip().splitlines():
            name, what = line.split(maxsplit=1)
            action = actions.add_parser(name, help=what, description=what)
            action.add_argument("--table", help="NAMESPACE.TABLE; without it all of them")
            for option, what in OPTIONS.get(name, {}).items():
                action.add_argument(f"--{option}", type=int, help=what)
            for flag, what in FLAGS.get(name, {}).items():
                action.add_argument(f"--{flag}", action="store_true", help=what)

    def handle(self, *, action: str, table: str | None, **options: Any) -> None:
        if settings.EVODB.catalog:
            self._foreign(action, table, options)
            return
        rows = list(_tables(table))
        if table is not None and not rows:
            raise CommandError(f"there is no table {table!r}; tables are {_listed(map(str, _tables(None)[:10]))}")
        asked = _asked(settings.EVODB, options)
        if action == "stats":
            self._stats(rows)
        else:
            work = {"upkeep": _upkeep, "compact": _compact, "expire": _expire, "orphans": _orphans}[action]
            kept = partial(
                lease.kept, catalog=from_settings(settings.EVODB), lease_ms=settings.EVODB.lease_ms, now_ms=now_ms
            )
            keepers = [(str(row), kept(row)) for row in rows]
            self._each(keepers, lambda keeper: work(keeper, asked, options))

    def _stats(self, rows: list[IcebergTable]) -> None:
        if not rows:
            self.stdout.write("The lake is empty: nothing was flushed yet. Try manage.py flush_buffers")
        catalog = from_settings(settings.EVODB)
        for table in rows:
            count = _flushed(str(table.namespace), table.name)[0]
            self.stdout.write(f"{table}: {count} rows in {table.version + 1} commits")
            self.stdout.write(f"  {_state(catalog, table)}")
            self.stdout.write(f"  {duck.shell_command(table.metadata_location)}")

    def _foreign(self, action: str, table: str | None, options: dict[str, Any]) -> None:
        """Files are exchanged there as here; what deletes any is that catalog's own."""
        if action == "stats":
            self._foreign_stats(lakes.chosen(settings.EVODB))
            return
        if action != "compact":
            raise CommandError(f"{elsewhere(settings.EVODB.catalog)}; only compact and stats work here")
        catalog = storage.foreign(settings.EVODB)
        namespaces = sorted(set(Parent.objects.values_list("namespace", flat=True)))
        known = [(one, name) for one in namespaces for name in foreign_tables.names(catalog, one)]
        found = [ForeignKeeper(catalog, *one) for one in known if table in (None, ".".join(one))]
        if table is not None and not found:
            raise CommandError(f"there is no table {table!r}; tables are {_listed('.'.join(one) for one in known)}")
        asked = dataclasses.replace(_asked(settings.EVODB, options), rewrite_engine=rewrite_choice.LOCAL)
        self._each([(one.name, nullcontext(one)) for one in found], lambda one: _compact(one, asked, options))

    def _foreign_stats(self, lake: Lake) -> None:
        """What others wrote there is in none of the numbers."""
        for namespace, tables in lake.locations(Parent.objects.values_list("namespace", flat=True)).items():
            for name, location in tables.items():
                rows, flushes = _flushed(namespace, name)
                self.stdout.write(f"{namespace}.{name}: {rows} rows of ours in {flushes} commits")
                self.stdout.write(f"  {duck.shell_command(location)}")

    def _each(self, keepers: Sequence[tuple[str, AbstractContextManager[Any]]], work: Callable[[Any], object]) -> None:
        """Do this to each table; a table where it fails does not keep it from the others."""
        failed = 0
        for name, kept in keepers:
            with kept as keeper:
                if keeper is None:
                    self.stderr.write(f"{name}: somebody else is at it; try again in a minute")
                    failed += 1
                    continue
                try:
                    self.stdout.write(f"{name}: {work(keeper)}")
                except LakehouseError as exc:
                    self.stderr.write(f"{name}: {exc}" + ("; try again" if exc.retryable else ""))
                    failed += 1
                except Exception as exc:
                    log.exception("upkeep of %s failed", name)
                    self.stderr.write(f"{name}: {type(exc).__name__}: {exc}")
                    failed += 1
        if failed:
            raise CommandError(f"{failed} of {len(keepers)} tables are not done")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(islice(names, 10)) or "none"


def _tables(name: str | None) -> QuerySet[IcebergTable]:
    tables = IcebergTable.objects.select_related("namespace").order_by("namespace__name", "name")
    if name is None:
        return tables
    last = name.rpartition(".")[2]
    return tables.filter(pk__in=[one.pk for one in tables.filter(name__endswith=last) if str(one) == name])


def _state(catalog: DjangoCatalog, row: IcebergTable) -> str:
    """Files and history of a table, as far as it can be read."""
    try:
        table = catalog.load_table((*row.namespace.name.split(SEPARATOR), row.name))
        files, size_bytes = _size(table)
    except (OSError, *STRANGE) as exc:
        return f"its metadata cannot be read: {str(exc)[:500]}"
    size = filesizeformat(size_bytes).replace("\xa0", " ")
    upkeep = TableUpkeep.objects.filter(table=row).first()
    swept = f"{upkeep.orphans} orphans" if upkeep and upkeep.swept_ms else "not looked for orphans yet"
    return (
        f"{files} files, {size}; {len(table.metadata.snapshots)} snapshots, "
        f"{row.forgotten.count()} more forgotten; {swept}"
    )


def _size(table: Table) -> tuple[int, int]:
    """Data files and their bytes, counted where a writer left them out of its summary, as DuckDB does."""
    snapshot = table.current_snapshot()
    said = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
    files, size_bytes = number(said, "total-data-files", 0), number(said, "total-files-size", 0)
    if files is not None and size_bytes is not None:
        return files, size_bytes
    data = [one.manifest_path for one in compaction.manifests_of(table) if one.content == ManifestContent.DATA]
    found = reachable.fields(table.io, data, [compaction.SIZE_BYTES])
    sizes = [size for _, is_live, (size,) in found if is_live]
    return len(sizes), sum(sizes)


def _upkeep(keeper: Keeper, asked: Settings, _: dict[str, Any]) -> object:
    return rounds.keep(keeper, asked)


def _expire(keeper: Keeper, asked: Settings, _: dict[str, Any]) -> object:
    done = expiry.forget(keeper, retention.from_settings(asked))
    return done + expiry.delete(keeper, before_ms=rounds.forgotten_before(asked, now_ms()))


def _compact(keeper: Tender, asked: Settings, options: dict[str, Any]) -> object:
    terms = rounds.terms_of(asked)
    if options["all"]:
        terms = dataclasses.replace(terms, files_min=2, is_tiered=False)
    done = compaction.compact(keeper, terms)
    return f"{done}; {compaction.merge_manifests(keeper)} manifests merged away"


def _orphans(keeper: Keeper, asked: Settings, options: dict[str, Any]) -> object:
    swept = rounds.sweep(keeper, asked, is_dry_run=not options["delete"])
    more = ["  ..."] if swept.found > len(swept.named) else []
    return "\n".join([str(swept), *(f"  {path}" for path in swept.named), *more])


def _asked(found: Settings, options: dict[str, Any]) -> Settings:
    """The settings, with what was asked for in their place. Raises CommandError."""
    given = {option: options[option] for option in SETTINGS if options.get(option) is not None}
    rows = {row.name: row.metadata for row in dataclasses.fields(Settings)}
    for option, value in given.items():
        row = rows[SETTINGS[option]]
        if not row["check"](value):
            raise CommandError(f"--{option.replace('_', '-')} is {value}, wanted {row['wanted']} ({row['unit']})")
    return dataclasses.replace(found, **{SETTINGS[option]: value for option, value in given.items()})


def _flushed(namespace: str, table: str) -> tuple[int, int]:
    """Rows and flushes."""
    found = FlushTable.objects.filter(namespace=namespace, table=table)
    return found.aggregate(rows=Sum("rows"))["rows"] or 0, found.count()
