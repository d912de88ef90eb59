"""`manage.py fuse`: which parents are not flushed because too much was unreadable, and how they go on."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from lakehouse import clock
from lakehouse.admin.shown import moment_text
from lakehouse.flush import fuse_box
from lakehouse.flush.fuse import remedy
from lakehouse.management.operation import Operation
from lakehouse.models import Parent

NAMES_MAX = 20


class Command(Operation):
    help = "Show the fuses that are blown, or mend them. Needs no worker and no broker."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--parent", help="only this parent")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--reset", action="store_true", help="what was wrong is mended: flush again, and look again")
        how.add_argument(
            "--accept", action="store_true", help="flush again; what the next flush cannot read becomes dead letters"
        )

    def handle(self, *, parent: str | None, reset: bool, accept: bool, **_: Any) -> None:
        _check(parent)
        blown = fuse_box.blown() if parent is None else fuse_box.blown().filter(name=parent)
        if reset or accept:
            self._mend(list(blown.values_list("name", flat=True)), accept=accept)
            return
        for found in blown:
            self.stdout.write(f"{found.name}: blown {moment_text(found.fuse_blown_ms, now_ms=clock.now_ms())}")
            self.stdout.write(f"    {found.fuse_reason}")
            self.stdout.write(f"    {found.pending_entries} entries wait; {remedy(found.name)}")
        if not blown:
            self.stdout.write("No fuse is blown.")

    def _mend(self, names: list[str], *, accept: bool) -> None:
        for name in fuse_box.mend(names, accept=accept):
            then = "its next flush makes dead letters of what it cannot read" if accept else "it is flushed again"
            self.stdout.write(f"{name}: {then}; at once with `manage.py flush_buffers --parent {name}`")
        if not names:
            self.stdout.write("No fuse is blown; nothing was changed.")


def _check(name: str | None) -> None:
    if name is not None and not Parent.objects.filter(name=name).exists():
        known = ", ".join(Parent.objects.order_by("name").values_list("name", flat=True)[:NAMES_MAX]) or "none yet"
        raise CommandError(f"there is no parent {name!r}; known are: {known}")
