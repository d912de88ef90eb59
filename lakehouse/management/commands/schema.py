"""`manage.py schema`: what is registered of the columns of tables, what children send beside them, and promotion."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from lakehouse import clock
from lakehouse.admin.shown import moment_text
from lakehouse.errors import LakehouseError
from lakehouse.management.operation import Operation, printable
from lakehouse.models import DriftField, NestedValues, Parent, SchemaMode, TableSchema
from lakehouse.tasks import promoter

NAMES_MAX = 20


class Command(Operation):
    help = "Schemas of tables: list, set, the inbox of drift, and promotion to columns (docs/schemas.md)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        listed = actions.add_parser("list", help="what is registered")
        change = actions.add_parser("set", help="register a schema, or change what is given of one")
        inbox = actions.add_parser("inbox", help="keys that are no columns or do not fit theirs")
        promote = actions.add_parser("promote", help="make a column of a key, with what is in _rest already")
        for one in (listed, inbox):
            one.add_argument("parent", nargs="?", help="only of this parent")
        for one in (change, promote):
            one.add_argument("parent")
            one.add_argument("table")
        change.add_argument("--mode", choices=SchemaMode.values)
        change.add_argument("--nested", choices=["parent", "json", "struct"], help="new columns of objects and arrays")
        change.add_argument("--fields", help='JSON: {"id": "long not null", "price": "decimal(12,2)"}')
        promote.add_argument("field")
        promote.add_argument("--type", dest="kind", default="", help="other than the one that was seen")

    def handle(self, *, action: str, **options: Any) -> None:
        work: dict[str, Callable[..., None]] = {
            "list": self._list,
            "set": self._set,
            "inbox": self._inbox,
            "promote": self._promote,
        }
        work[action](**options)

    def _list(self, *, parent: str | None, **_: Any) -> None:
        rows = TableSchema.objects.select_related("parent").order_by("parent__name", "table")
        if parent is not None:
            rows = rows.filter(parent=_parent(parent))
        for row in rows:
            nested = f", nested values as {row.nested}" if row.nested else ""
            self.stdout.write(f"{row}: {row.mode}{nested}")
            for name, kind in row.fields.items():
                self.stdout.write(f"    {name}: {kind if isinstance(kind, str) else json.dumps(kind)}")
        if not rows:
            self.stdout.write("No schema is registered: columns come as values do. Try manage.py schema set")

    def _set(
        self, *, parent: str, table: str, mode: str | None, nested: str | None, fields: str | None, **_: Any
    ) -> None:
        found = _parent(parent)
        row = TableSchema.objects.filter(parent=found, table=table).first() or TableSchema(parent=found, table=table)
        row.mode = mode or row.mode
        if nested is not None:
            row.nested = NestedValues.PARENT if nested == "parent" else nested
        if fields is not None:
            try:
                row.fields = json.loads(fields)
            except ValueError as exc:
                raise CommandError(f"--fields is not JSON: {exc}") from None
        try:
            row.full_clean()
        except ValidationError as exc:
            raise CommandError("; ".join(exc.messages)) from None
        row.save()
        self.stdout.write(f"{row}: {row.mode}, {len(row.fields)} fields; it counts from the next batch and flush on")

    def _inbox(self, *, parent: str | None, **_: Any) -> None:
        rows = DriftField.objects.select_related("parent").order_by("parent__name", "table", "-values")
        if parent is not None:
            rows = rows.filter(parent=_parent(parent))
        now_ms = clock.now_ms()
        for row in rows:
            last = moment_text(row.last_ms, now_ms=now_ms)
            self.stdout.write(
                printable(f"{row} ({row.get_kind_display()}): {row.values} values, {row.type or 'mixed'}, last {last}")
            )
            self.stdout.write(f"    {printable(row.example)}")
            if row.said:
                self.stdout.write(f"    {printable(row.said)}")
        if not rows:
            self.stdout.write("The inbox is empty.")

    def _promote(self, *, parent: str, table: str, field: str, kind: str, **_: Any) -> None:
        try:
            moved = promoter().promote(_parent(parent), table, field, kind)
        except LakehouseError as exc:
            raise CommandError(str(exc)) from None
        self.stdout.write(f"{parent}/{table} has a column {field}: {moved}")


def _parent(name: str) -> Parent:
    found = Parent.objects.filter(name=name).first()
    if found is None:
        known = ", ".join(Parent.objects.order_by("name").values_list("name", flat=True)[:NAMES_MAX]) or "none yet"
        raise CommandError(f"there is no parent {name!r}; known are: {known}")
    return found
