"""What commands share that ask the lake: the engine with the bounds that hold for everybody, and answers as text."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import orjson
from asgiref.sync import sync_to_async
from django.conf import settings as site
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from lakehouse.errors import QueryError
from lakehouse.management.operation import printable
from lakehouse.query import lake_tables
from lakehouse.query.engine import DEFAULT_NAMESPACE, Engine, Query
from lakehouse.query.messages import Answer, Name, Place

CELL_CHARS_MAX = 60
FORMATS = ("table", "json", "csv")


def name(text: str) -> str:
    """Of a table, a namespace or a child."""
    if not text.strip():
        raise ArgumentTypeError(f"is {text!r}, wanted a name")
    return text


def with_answer(parser: ArgumentParser) -> None:
    parser.add_argument("--namespace", type=name, default=DEFAULT_NAMESPACE, help="of tables without one; default lake")
    parser.add_argument("--limit", type=int, help="rows at most; default and largest EVODB_QUERY_ROWS_MAX")
    parser.add_argument("--format", choices=FORMATS, default="table", help="default table")


def limit_of(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise CommandError(f"--limit is {limit}, wanted at least 1")
    return limit


def answered(query: Query) -> Answer:
    """Raises CommandError."""
    answer: Answer = several(lambda ask: ask(query))
    return answer


def several(work: Callable[[Callable[[Query], Answer]], Any]) -> Any:
    """What `work` makes of several queries, asked of one engine. Raises CommandError."""

    async def run() -> Any:
        engine = Engine(site.EVODB)
        loop = asyncio.get_running_loop()

        def ask(query: Query) -> Answer:
            return asyncio.run_coroutine_threadsafe(engine.run(query, find=_find), loop).result()

        try:
            return await asyncio.to_thread(work, ask)
        finally:
            await engine.close()
            await sync_to_async(connections.close_all)()

    try:
        return asyncio.run(run())
    except QueryError as exc:
        raise CommandError(f"{exc} ({exc.code})") from None


@contextmanager
def about(as_of: str) -> Iterator[None]:
    """Whoever says a time that is none hears that, and not the query it became."""
    try:
        yield
    except CommandError as exc:
        if as_of and any(complaint in str(exc) for complaint in ("Conversion Error", "infinite timestamps")):
            wanted = "a time such as '2026-01-31 12:00:00', in UTC or with its zone"
            raise CommandError(f"--as-of is {as_of[:100]!r}, wanted {wanted}") from None
        raise


def show(command: BaseCommand, answer: Answer, form: str) -> None:
    for line in {"table": _table, "json": _document, "csv": _text}[form](answer):
        command.stdout.write(line)
    if answer.cut_at:
        note = f"There were more: this is what {answer.cut_at} of an answer may be"
        command.stderr.write(note, command.style.WARNING)


async def _find(names: Sequence[Name]) -> list[Place]:
    return await sync_to_async(partial(lake_tables.places, names, allows=lambda namespace: True))()


def _document(answer: Answer) -> list[str]:
    columns = [{"name": one.name, "type": one.type} for one in answer.columns]
    rows = orjson.Fragment(answer.body)
    said = {"columns": columns, "rows": rows, "rowCount": answer.rows, "truncated": bool(answer.cut_at)}
    return [orjson.dumps(said | {"executionTimeMs": answer.elapsed_ms}).decode()]


def _text(answer: Answer) -> list[str]:
    return [answer.body.decode()]


def _table(answer: Answer) -> list[str]:
    rows = [[_cell(value) for value in row] for row in orjson.loads(answer.body)]
    if [one.name for one in answer.columns] == ["explain_key", "explain_value"]:
        return [str(value) for _, value in orjson.loads(answer.body)]
    heads = [printable(one.name) for one in answer.columns]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *rows]]
    lines.insert(1, "  ".join("-" * width for width in widths))
    took = f"{answer.rows} row{'s' if answer.rows != 1 else ''} in {answer.elapsed_ms} ms"
    return [*(line.rstrip() for line in lines), took]


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else orjson.dumps(value).decode()
    shown = printable(" ".join(text.split()))
    return shown if len(shown) <= CELL_CHARS_MAX else shown[: CELL_CHARS_MAX - 3] + "..."
