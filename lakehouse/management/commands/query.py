"""`manage.py query "SELECT ..."`: one SELECT over the lake, within the bounds that hold for everybody."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from lakehouse.management import asking
from lakehouse.management.operation import Operation
from lakehouse.query.engine import Query


class Command(Operation):
    help = "Run one SELECT over the tables of the lake. It reads, and can do nothing else."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("sql", help="the query; - reads it from stdin")
        parser.add_argument("--as-of", default="", help="a time such as '2026-01-31 12:00:00', or the id of a snapshot")
        asking.with_answer(parser)

    def handle(self, *, sql: str, as_of: str, namespace: str, limit: int | None, **options: Any) -> None:
        form = options["format"]
        query = Query(
            sql=sys.stdin.read() if sql == "-" else sql,
            as_of=as_of,
            namespace=namespace,
            rows_max=asking.limit_of(limit),
            format="csv" if form == "csv" else "json",
        )
        asking.show(self, asking.answered(query), form)
