"""`manage.py restore --child NAME --as-of TIME out.db`: an edge database made anew from the lake of this parent."""

from __future__ import annotations

import sqlite3
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
from django.core.management.base import CommandError

from lakehouse.management import asking
from lakehouse.management.operation import Operation
from lakehouse.query.engine import DEFAULT_NAMESPACE, Query
from lakehouse.query.messages import Answer
from rpc.restored_file import RestoreError, into_file
from rpc.restoring import Ask, Page, Restored, restore


class Command(Operation):
    help = "Make the SQLite database of a child anew, as it is in the lake or as it was (docs/time-travel.md)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("out", help="the file to make; it may not exist yet")
        parser.add_argument("--child", type=asking.name, required=True, help="whose database it is")
        parser.add_argument("--as-of", default="", metavar="TIME", help="of the child's clock; default now")
        parser.add_argument(
            "--namespace", type=asking.name, default=DEFAULT_NAMESPACE, help="where its tables are; default lake"
        )

    def handle(self, *, out: str, child: str, as_of: str, namespace: str, **options: Any) -> None:
        path = Path(out)
        if path.exists():
            raise CommandError(f"{path} exists already; type the path of a file to be made")
        if not path.absolute().parent.is_dir():
            raise CommandError(f"there is no folder {path.absolute().parent}; make it, or type another path")

        def work(connection: sqlite3.Connection) -> Restored:
            restored: Restored = asking.several(
                lambda ask: restore(_pages(ask), connection, child, namespace=namespace, as_of=as_of)
            )
            return restored

        try:
            with asking.about(as_of):
                made = into_file(path, work)
        except RestoreError as exc:
            raise CommandError(str(exc)) from None
        for table, rows in made.tables.items():
            self.stdout.write(f"{table}: {rows} rows")
        for text in made.warnings:
            self.stderr.write(text, self.style.WARNING)


def _pages(ask: Callable[[Query], Answer]) -> Ask:
    def page(sql: str, values: Mapping[str, Any]) -> Page:
        answer = ask(Query(sql=sql, parameters=dict(values)))
        return Page(orjson.loads(answer.body), bool(answer.cut_at))

    return page
