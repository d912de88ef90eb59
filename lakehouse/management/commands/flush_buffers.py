"""`manage.py flush_buffers`: move what waits into tables now, in this process."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from lakehouse.errors import LakehouseError
from lakehouse.flush import backlog, fuse_box
from lakehouse.flush.backlog import Horizon
from lakehouse.flush.fuse import remedy
from lakehouse.flush.policy import FlushTrigger
from lakehouse.management.operation import Operation
from lakehouse.models import Parent
from lakehouse.tasks import flush_parent

LOOK_EVERY_S = 0.2


class Command(Operation):
    help = "Flush waiting batches into their tables. Needs no worker and no broker."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--parent", help="only this parent")
        parser.add_argument("--table", help="only parents in whose buffer a change of this table waits")
        parser.add_argument(
            "--wait", action="store_true", help="return only when it is in the tables, also what a worker is at"
        )

    def handle(self, *, parent: str | None, table: str | None, wait: bool, **_: Any) -> None:
        goals = self._goals(parent, table)
        if table is not None and not goals:
            self.stdout.write(f"no change of a table {table!r} waits: all is flushed, or its name is another")
        failed = 0
        for name, goal in goals:
            try:
                self._flush(name, goal, wait=wait)
            except LakehouseError as exc:  # one of another namespace may be flushed all the same
                self.stderr.write(f"{name}: {exc}")
                failed += 1
        if failed:
            raise CommandError(
                f"{failed} of {len(goals)} parents are not flushed; what waits is durable and goes when that is mended"
            )

    def _flush(self, name: str, goal: Horizon, *, wait: bool) -> None:
        entries = flush_parent(goal.parent_id, FlushTrigger.MANUAL.value)
        self.stdout.write(f"{name}: {entries} entries flushed")
        while wait and not backlog.is_reached(goal):
            if fuse_box.blown().filter(pk=goal.parent_id).exists():
                raise CommandError(f"the fuse of parent {name} is blown; {remedy(name)}")
            time.sleep(LOOK_EVERY_S)  # another worker holds the lease; when it dies, the lease ends and we are next
            flush_parent(goal.parent_id, FlushTrigger.MANUAL.value)
        if wait and backlog.is_kept(goal.parent_id):
            raise CommandError(
                f"{name}: the object store is away; what was to be flushed is durable in the fallback and goes "
                "into its tables when the store is back. Look with `manage.py recover_fallback`"
            )

    def _goals(self, name: str | None, table: str | None) -> list[tuple[str, Horizon]]:
        parents = Parent.objects.order_by("name")
        if name is not None:
            parents = parents.filter(name=name)
            if not parents:
                known = ", ".join(Parent.objects.order_by("name").values_list("name", flat=True)[:20]) or "none yet"
                raise CommandError(f"there is no parent {name!r}; known are: {known}")
        return [(p.name, backlog.horizon(p.pk)) for p in parents if table is None or backlog.holds(p.pk, table)]
