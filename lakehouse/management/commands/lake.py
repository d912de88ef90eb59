"""`manage.py lake`: what the lake holds, and keeping it in order by hand; the beat does the same all the time."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db.models import QuerySet, Sum

from lakehouse.catalog import retention
from lakehouse.catalog.storage import from_settings
from lakehouse.catalog.upkeep import expiry, lease, rounds
from lakehouse.catalog.upkeep.lease import Keeper
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.errors import LakehouseError
from lakehouse.models import FlushTable, IcebergTable
from lakehouse.query import duck

ACTIONS = """
stats     tables, rows, commits, and how to look at them
upkeep    all that follows, as the beat does it
expire    forget old snapshots, and delete the files of those forgotten EVODB_FORGOTTEN_HOURS ago
"""


class Command(BaseCommand):
    help = "Show the tables of the lake and keep them in order (docs/upkeep.md)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        for line in ACTIONS.strip().splitlines():
            name, what = line.split(maxsplit=1)
            action = actions.add_parser(name, help=what, description=what)
            action.add_argument("--table", help="NAMESPACE.TABLE; without it all of them")
            if name == "expire":
                action.add_argument("--hours", type=int, help="forget snapshots older than that")
                action.add_argument("--keep", type=int, help="but never the newest so many of a table")
                action.add_argument("--grace-hours", type=int, help="delete files of snapshots forgotten so long ago")

    def handle(self, *, action: str, table: str | None, **options: Any) -> None:
        rows = list(_tables(table))
        if table and not rows:
            known = ", ".join(map(str, _tables(None)[:10])) or "none"
            raise CommandError(f"there is no table {table}; tables are {known}")
        {"stats": self._stats, "upkeep": self._upkeep, "expire": self._expire}[action](rows, options)

    def _stats(self, rows: list[IcebergTable], _: dict[str, Any]) -> None:
        if not rows:
            self.stdout.write("The lake is empty: nothing was flushed yet. Try manage.py flush_buffers")
        for table in rows:
            flushed = FlushTable.objects.filter(namespace=str(table.namespace), table=table.name)
            count = flushed.aggregate(rows=Sum("rows"))["rows"] or 0
            self.stdout.write(f"{table}: {count} rows in {table.version + 1} commits")
            self.stdout.write(f"  {duck.shell_command(table.metadata_location)}")

    def _upkeep(self, rows: list[IcebergTable], _: dict[str, Any]) -> None:
        self._each(rows, lambda keeper: rounds.keep(keeper, settings.EVODB))

    def _expire(self, rows: list[IcebergTable], options: dict[str, Any]) -> None:
        asked = _expiry_of(settings.EVODB, options)

        def expire(keeper: Keeper) -> str:
            done = expiry.forget(keeper, retention.from_settings(asked))
            done += expiry.delete(keeper, before_ms=rounds.forgotten_before(asked, now_ms()))
            return str(done)

        self._each(rows, expire)

    def _each(self, rows: list[IcebergTable], work: Callable[[Keeper], object]) -> None:
        """Do this to each table; a table where it fails does not keep it from the others."""
        failed = 0
        catalog = from_settings(settings.EVODB)
        for row in rows:
            with lease.kept(row, catalog, now_ms=now_ms) as keeper:
                if keeper is None:
                    self.stderr.write(f"{row}: somebody else is at it; try again in a minute")
                    failed += 1
                    continue
                try:
                    self.stdout.write(f"{row}: {work(keeper)}")
                except LakehouseError as exc:
                    self.stderr.write(f"{row}: {exc}" + ("; try again" if exc.retryable else ""))
                    failed += 1
        if failed:
            raise CommandError(f"{failed} of {len(rows)} tables are not done")


def _tables(name: str | None) -> QuerySet[IcebergTable]:
    tables = IcebergTable.objects.select_related("namespace").order_by("namespace__name", "name")
    if name is None:
        return tables
    last = name.rpartition(".")[2]
    return tables.filter(pk__in=[one.pk for one in tables.filter(name__endswith=last) if str(one) == name])


def _expiry_of(found: Settings, options: dict[str, Any]) -> Settings:
    """The settings, with what was asked for in their place. Raises CommandError."""
    asked = {"snapshot_hours": "hours", "snapshots_newest": "keep", "forgotten_hours": "grace_hours"}
    given = {name: options[option] for name, option in asked.items() if options[option] is not None}
    rows = {row.name: row.metadata for row in dataclasses.fields(Settings)}
    for name, value in given.items():
        if not rows[name]["check"](value):
            option = asked[name].replace("_", "-")
            raise CommandError(f"--{option} is {value}, wanted {rows[name]['wanted']} ({rows[name]['unit']})")
    return dataclasses.replace(found, **given)
