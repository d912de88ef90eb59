"""`manage.py query "SELECT ..."`: one SELECT over the lake, within the bounds that hold for everybody."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson
from asgiref.sync import sync_to_async
from django.conf import settings as site
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from lakehouse.errors import QueryError
from lakehouse.query import lake_tables
from lakehouse.query.engine import DEFAULT_NAMESPACE, Engine, Query
from lakehouse.query.messages import Answer, Name, Place

CELL_CHARS_MAX = 60


class Command(BaseCommand):
    help = "Run one SELECT over the tables of the lake. It reads, and can do nothing else."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("sql", help="the query; - reads it from stdin")
        parser.add_argument("--as-of", default="", help="a time such as '2026-01-31 12:00:00', or the id of a snapshot")
        parser.add_argument("--namespace", default=DEFAULT_NAMESPACE, help="of tables without one; default lake")
        parser.add_argument("--limit", type=int, help="rows at most; default and largest EVODB_QUERY_ROWS_MAX")
        parser.add_argument("--format", choices=["table", "json", "csv"], default="table", help="default table")

    def handle(self, *, sql: str, as_of: str, namespace: str, limit: int | None, **options: Any) -> None:
        form = options["format"]
        if limit is not None and limit < 1:
            raise CommandError(f"--limit is {limit}, wanted at least 1")
        query = Query(
            sql=sys.stdin.read() if sql == "-" else sql,
            as_of=as_of,
            namespace=namespace,
            rows_max=limit,
            format="csv" if form == "csv" else "json",
        )
        try:
            answer = asyncio.run(_run(query))
        except QueryError as exc:
            raise CommandError(f"{exc} ({exc.code})") from None
        for line in {"table": _table, "json": _document, "csv": _text}[form](answer):
            self.stdout.write(line)
        if answer.cut_at:
            self.stderr.write(f"There were more: this is what {answer.cut_at} of an answer may be", self.style.WARNING)


async def _run(query: Query) -> Answer:
    engine = Engine(site.EVODB)
    try:
        return await engine.run(query, find=_find)
    finally:
        await engine.close()
        await sync_to_async(connections.close_all)()


async def _find(names: Sequence[Name]) -> list[Place]:
    return await sync_to_async(partial(lake_tables.places, names, allows=lambda namespace: True))()


def _document(answer: Answer) -> list[str]:
    columns = [{"name": one.name, "type": one.type} for one in answer.columns]
    rows = orjson.Fragment(answer.body)
    said = {"columns": columns, "rows": rows, "rowCount": answer.rows, "truncated": bool(answer.cut_at)}
    return [orjson.dumps(said | {"executionTimeMs": answer.elapsed_ms}).decode()]


def _text(answer: Answer) -> list[str]:
    return answer.body.decode().splitlines()


def _table(answer: Answer) -> list[str]:
    rows = [[_cell(value) for value in row] for row in orjson.loads(answer.body)]
    if [one.name for one in answer.columns] == ["explain_key", "explain_value"]:
        return [str(value) for _, value in orjson.loads(answer.body)]
    heads = [one.name for one in answer.columns]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *rows]]
    lines.insert(1, "  ".join("-" * width for width in widths))
    took = f"{answer.rows} row{'s' if answer.rows != 1 else ''} in {answer.elapsed_ms} ms"
    return [*(line.rstrip() for line in lines), took]


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else orjson.dumps(value).decode()
    shown = " ".join(text.split())
    return shown if len(shown) <= CELL_CHARS_MAX else shown[: CELL_CHARS_MAX - 3] + "..."
