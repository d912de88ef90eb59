"""`manage.py lake stats`: which tables there are and how to look at them."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db.models import Sum

from lakehouse.models import FlushTable, IcebergTable
from lakehouse.query import duck


class Command(BaseCommand):
    help = "List the tables of the lake, with the command that shows the first rows of each in DuckDB."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["stats"], help="stats: tables, rows, commits")

    def handle(self, **_: Any) -> None:
        tables = IcebergTable.objects.select_related("namespace").order_by("namespace__name", "name")
        if not tables:
            self.stdout.write("The lake is empty: nothing was flushed yet. Try manage.py flush_buffers")
        for table in tables:
            flushed = FlushTable.objects.filter(namespace=str(table.namespace), table=table.name)
            rows = flushed.aggregate(rows=Sum("rows"))["rows"] or 0
            self.stdout.write(f"{table}: {rows} rows in {table.version + 1} commits")
            self.stdout.write(f"  {duck.shell_command(table.metadata_location)}")
