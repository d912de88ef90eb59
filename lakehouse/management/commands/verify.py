"""`manage.py verify`: compare what the lake has with what the journal says was committed, to the last entry."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.conf import settings as site
from django.core.management.base import CommandError

from lakehouse.errors import StoreUnavailable
from lakehouse.management.operation import Operation
from lakehouse.models import Parent
from lakehouse.query.verify import ChildReport, Finding, Verdict, Wanted, verify


class Command(Operation):
    help = "Compare the lake with the journal, per child and table: green, or which entries are missing or double."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--parent", help="only the children of this parent")
        parser.add_argument("--child", help="only this child")
        parser.add_argument("--table", help="only this table")
        parser.add_argument("--json", action="store_true", help="one JSON object per line, for programs")

    def handle(self, *, parent: str | None, child: str | None, table: str | None, json: bool, **_: Any) -> None:
        if parent is not None and not Parent.objects.filter(name=parent).exists():
            known = ", ".join(Parent.objects.order_by("name").values_list("name", flat=True)[:20]) or "none yet"
            raise CommandError(f"there is no parent {parent!r}; known are: {known}")
        red = checked = counted = 0
        for report in _reports(Wanted(parent=parent, child=child, table=table)):
            checked += len(report.tables)
            red += report.is_red
            counted += sum(one.verdict is Verdict.COUNTED for one in report.tables)
            for line in _objects(report) if json else _lines(report):
                self.stdout.write(line)
        named = {"child": child, "table": table}
        if not checked and (asked := [f"{what} {one!r}" for what, one in named.items() if one is not None]):
            asked_for = " in ".join(asked)
            raise CommandError(f"nothing of {asked_for} is committed or in the lake; is its name spelled so?")
        if red:
            raise CommandError(f"red: {red} of the children have not in the lake what the journal says")
        if not json:
            without = f"; of {counted} only which entries there are was compared" if counted else ""
            self.stdout.write(f"green: {checked} sums of children and tables agree{without}")


def _reports(wanted: Wanted) -> Iterator[ChildReport]:
    try:
        yield from verify(site.EVODB, wanted)
    except StoreUnavailable as exc:
        said = "the object store is away, so nothing more can be said of the lake, good or bad"
        raise CommandError(f"{said}; type it again when it is back: {exc}") from None


def _lines(report: ChildReport) -> list[str]:
    lines = []
    for one in report.tables:
        said = f"{one.namespace}.{one.table} {one.child}: {one.verdict}, {one.lake.entries} entries in the lake"
        if not one.is_equal:
            said += f" ({one.lake.hex}), {one.journal.entries} in the journal ({one.journal.hex})"
        if one.unreadable:
            said += f", {one.unreadable} dead letters"
        lines += [said, *(f"  {why}" for why in one.why)]
    lines += [f"  {one}" for one in report.ranges]
    if report.waiting or report.fallback:
        lines.append(
            f"  {report.child}: {report.waiting} entries wait for a flush, {report.fallback} for the object store"
        )
    return lines


def _objects(report: ChildReport) -> list[str]:
    found = [json.dumps({"event": "table", **_object(one)}) for one in report.tables]
    found += [json.dumps({"event": "range", "child": report.child, **one._asdict()}) for one in report.ranges]
    waiting = {"waiting": report.waiting, "fallback": report.fallback, "older": report.older}
    return [*found, json.dumps({"event": "child", "child": report.child, "verdict": report.verdict, **waiting})]


def _object(one: Finding) -> dict[str, Any]:
    return {
        "namespace": one.namespace,
        "table": one.table,
        "child": one.child,
        "verdict": one.verdict,
        "lake": {"entries": one.lake.entries, "digest": one.lake.hex},
        "journal": {"entries": one.journal.entries, "digest": one.journal.hex},
        "unreadable": one.unreadable,
        "typed": one.typed,
        "why": one.why,
    }
