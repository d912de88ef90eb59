"""`manage.py recover_fallback`: bring what the fallback keeps into its tables now, in this process."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.db.models import QuerySet

from lakehouse.clock import now_ms
from lakehouse.flush import breaker_row, fuse
from lakehouse.management.operation import Operation
from lakehouse.models import FallbackBatch, Parent
from lakehouse.tasks import transfer


class Command(Operation):
    help = "Bring kept rows into their tables. Needs no worker and no broker; a worker does the same every 10 s."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--parent", help="only this parent")
        parser.add_argument(
            "--reset", action="store_true", help="also what was tried too often, and without waiting for the breaker"
        )
        parser.add_argument(
            "--accept", action="store_true", help="make dead letters of however much is unreadable; implies --reset"
        )

    def handle(self, *, parent: str | None, reset: bool, accept: bool, **_: Any) -> None:
        reset = reset or accept
        if reset and breaker_row.hurry(now_ms=now_ms()):
            self.stdout.write("the breaker was open; this is the probe")
        parents = self._parents(parent)
        if not parents:
            self.stdout.write("nothing is kept; every row that was flushed is in its table")
        for one in parents:
            self._recover(one, reset=reset, accept=accept)

    def _recover(self, parent: Parent, *, reset: bool, accept: bool) -> None:
        if parent.fuse_blown_ms is not None:
            self.stdout.write(f"{parent.name}: {fuse.notice(parent.name)}")
            return
        if not breaker_row.is_asked(now_ms=now_ms()):
            self.stdout.write(f"{parent.name}: nobody asks the store now, it was away; --reset does not wait")
            return
        moving = transfer(parent.pk)
        moving.accepts_letters = accept
        if reset:
            tables = moving.manager().reset()
            self.stdout.write(f"{parent.name}: {tables} tables are tried again")
        done = moving.recover()
        left = FallbackBatch.objects.filter(parent=parent, flush__isnull=False).order_by("pk")
        self.stdout.write(
            f"{parent.name}: {moving.rows} rows are in their tables, {left.count()} pieces are still kept"
        )
        for name in done.later:
            error = left.filter(**name._asdict()).values_list("last_error", flat=True).first()
            self.stdout.write(f"{parent.name}: {name} is tried again later: {error}")
        for name, error in done.stuck.items():
            self.stdout.write(f"{parent.name}: {name} was tried too often, with --reset it is tried again: {error}")

    def _parents(self, name: str | None) -> QuerySet[Parent]:
        parents = Parent.objects.order_by("name")
        if name is None:
            return parents.filter(pk__in=FallbackBatch.objects.filter(flush__isnull=False).values("parent"))
        if not parents.filter(name=name).exists():
            known = ", ".join(parents.values_list("name", flat=True)[:20]) or "none yet"
            raise CommandError(f"there is no parent {name!r}; known are: {known}")
        return parents.filter(name=name)
