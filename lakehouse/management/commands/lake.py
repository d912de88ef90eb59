"""`manage.py lake stats`: which tables there are and how to look at them."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings as site
from django.core.management.base import BaseCommand
from django.db.models import Sum

from lakehouse.catalog import lakes
from lakehouse.catalog.lake import Lake
from lakehouse.models import FlushTable, IcebergTable, Parent
from lakehouse.query import duck


class Command(BaseCommand):
    help = "List the tables of the lake, with the command that shows the first rows of each in DuckDB."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["stats"], help="stats: tables, rows, commits")

    def handle(self, **_: Any) -> None:
        if site.EVODB.catalog:
            self._foreign(lakes.chosen(site.EVODB))
            return
        tables = IcebergTable.objects.select_related("namespace").order_by("namespace__name", "name")
        if not tables:
            self.stdout.write("The lake is empty: nothing was flushed yet. Try manage.py flush_buffers")
        for table in tables:
            rows = _flushed(str(table.namespace), table.name)[0]
            self.stdout.write(f"{table}: {rows} rows in {table.version + 1} commits")
            self.stdout.write(f"  {duck.shell_command(table.metadata_location)}")

    def _foreign(self, lake: Lake) -> None:
        """What others wrote there is in none of the numbers."""
        for namespace, tables in lake.locations(Parent.objects.values_list("namespace", flat=True)).items():
            for name, location in tables.items():
                rows, flushes = _flushed(namespace, name)
                self.stdout.write(f"{namespace}.{name}: {rows} rows of ours in {flushes} commits")
                self.stdout.write(f"  {duck.shell_command(location)}")


def _flushed(namespace: str, table: str) -> tuple[int, int]:
    """Rows and flushes."""
    found = FlushTable.objects.filter(namespace=namespace, table=table)
    return found.aggregate(rows=Sum("rows"))["rows"] or 0, found.count()
