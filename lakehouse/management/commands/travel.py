"""`manage.py travel history|as-of|changes`: the lake as it was, and what changed since."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from lakehouse.journal import progress
from lakehouse.management import asking
from lakehouse.management.operation import Operation
from lakehouse.models import Parent
from lakehouse.models.parents import PastFlushes
from lakehouse.query import time_travel
from lakehouse.query.engine import Query
from lakehouse.query.time_travel import Asked, Moment, Rows


class Command(Operation):
    help = "Every change of a row; a table or a row as it was; what came between two bookmarks (docs/time-travel.md)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="history|as-of|changes")
        history = actions.add_parser("history", help="every change of a row")
        as_of = actions.add_parser("as-of", help="a table, or a row of it, as it was")
        changes = actions.add_parser("changes", help="what the commits between two bookmarks brought")
        for one in (history, as_of, changes):
            one.add_argument("table", type=asking.name)
            one.add_argument("--row-id", help="only this row; history needs it")
            one.add_argument("--child", default="", help="only rows of this child")
            one.add_argument("--parent", default="default", help="whose bookmarks are meant; default default")
            asking.with_answer(one)
        for one in (history, as_of):
            one.add_argument("--as-of", default="", metavar="TIME", help="of the child's clock (_ts)")
            one.add_argument("--snapshot", type=int, help="what this snapshot of the table had")
            one.add_argument("--bookmark", type=int, help="what was known with this commit of the parent")
        changes.add_argument("--after", type=int, default=0, help="behind this bookmark; default 0, from the beginning")
        changes.add_argument("--until", type=int, help="up to this bookmark; default the newest")

    def handle(self, *, action: str, **options: Any) -> None:
        rows = Rows(
            namespace=options["namespace"], table=options["table"], child=options["child"], row_id=options["row_id"]
        )
        asked = self._changes(rows, options) if action == "changes" else self._past(action, rows, options)
        form = options["format"]
        query = Query(
            sql=asked.sql,
            parameters=asked.parameters,
            namespace=rows.namespace,
            rows_max=asking.limit_of(options["limit"]),
            format="csv" if form == "csv" else "json",
        )
        with asking.about(options.get("as_of") or ""):
            answer = asking.answered(query)
        asking.show(self, answer, form)

    def _past(self, action: str, rows: Rows, options: dict[str, Any]) -> Asked:
        if action == "history" and rows.row_id is None:
            raise CommandError("history is of one row; type --row-id ID")
        if options["bookmark"] is not None:
            _check(rows, options["parent"], options["bookmark"])
        moment = Moment(
            time=options["as_of"],
            snapshot=options["snapshot"],
            parent=options["parent"],
            bookmark=options["bookmark"],
        )
        return time_travel.history(rows, moment) if action == "history" else time_travel.as_of(rows, moment)

    def _changes(self, rows: Rows, options: dict[str, Any]) -> Asked:
        newest = _check(rows, options["parent"], options["after"])
        until = newest if options["until"] is None else options["until"]
        _check(rows, options["parent"], until)
        if until < options["after"]:
            raise CommandError(f"--until is {until}, wanted {options['after']} (--after) to {newest}")
        return time_travel.changes(rows, parent=options["parent"], after=options["after"], until=until)


def _check(rows: Rows, name: str, bookmark: int) -> int:
    """The newest bookmark of this parent. Raises CommandError where a bookmark cannot be told from its neighbours."""
    parent = Parent.objects.filter(name=name).first()
    if parent is None:
        known = ", ".join(Parent.objects.order_by("name").values_list("name", flat=True)[:10]) or "none"
        raise CommandError(f"there is no parent {name!r}; type --parent NAME, known are {known}")
    if parent.namespace.lower() != rows.namespace.lower():
        raise CommandError(
            f"the bookmarks of {name} are of {parent.namespace}, where it writes; type --namespace {parent.namespace}, "
            f"or --parent with one that writes into {rows.namespace}"
        )
    if not 0 <= bookmark <= parent.commit_number:
        raise CommandError(f"the bookmark is {bookmark}, wanted 0 to {parent.commit_number}, the newest of {name}")
    past = PastFlushes.objects.filter(parent=parent).values_list("commit_number", flat=True).first() or 0
    if bookmark < past:
        raise CommandError(
            f"the bookmark is {bookmark}, and commits up to {past} are forgotten (EVODB_HISTORY_DAYS); wanted {past} "
            f"to {parent.commit_number}, or a time (--as-of)"
        )
    if not progress.tells_all_after(parent, bookmark):
        raise CommandError(
            f"the bookmark is {bookmark}, and {parent.namespace} had more than {progress.COMMITS_MAX} commits since, "
            "which is all that is told; type a later one, or a time (--as-of)"
        )
    return parent.commit_number
