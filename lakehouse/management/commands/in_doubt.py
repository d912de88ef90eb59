"""`manage.py in_doubt`: flushes on their way into a catalog that is not ours, and the answers only an operator has."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings as site
from django.core.management.base import CommandError

from lakehouse.catalog import foreign, intents, landing
from lakehouse.errors import LakehouseError
from lakehouse.flush import fuse_box
from lakehouse.management.operation import Operation
from lakehouse.models import Flush, ForeignCommit
from lakehouse.models.flushes import RECOVERY


class Command(Operation):
    help = "List flushes that a foreign catalog was asked to commit and that are not marked, or answer for one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--flush", type=int, help="the flush to answer for")
        parser.add_argument("--table", help="its table to answer for")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--landed", action="store_true", help="its rows are in that table")
        how.add_argument("--absent", action="store_true", help="none of its rows is in that table; they go there anew")
        how.add_argument(
            "--begin-anew",
            action="store_true",
            help="the journal is a restored backup: what its tables say of later flushes counts no more",
        )

    def handle(self, *, flush: int | None, table: str | None, landed: bool, absent: bool, **options: Any) -> None:
        if options["begin_anew"]:
            self._begin_anew()
        elif landed or absent:
            self._answer(_commit(flush, table), is_landed=landed)
        else:
            self._list()

    def _list(self) -> None:
        found = intents.in_doubt().select_related("parent").prefetch_related("foreign")
        for flush in found:
            kind = "recovery" if flush.trigger == RECOVERY else "flush"
            self.stdout.write(f"{kind} {flush.pk} of parent {flush.parent.name}: {flush.entries} entries {flush.error}")
            for commit in flush.foreign.all():
                state = commit.question or ("is in its table" if commit.is_landed else "is looked up by the next flush")
                self.stdout.write(f"    {commit.namespace}.{commit.table}: {commit.rows} rows, {state}")
                if commit.question:
                    self.stdout.write(f"    {landing.answers(commit)}")
        if not found:
            self.stdout.write("Nothing is in doubt.")

    def _answer(self, commit: ForeignCommit, *, is_landed: bool) -> None:
        parent = commit.flush.parent
        if is_landed:
            intents.note_landed(commit)
        else:
            marker = intents.marker(parent.pk, is_recovery=commit.flush.trigger == RECOVERY)
            try:
                foreign.of(site.EVODB).rebase(commit, marker)
            except LakehouseError as exc:
                raise CommandError(str(exc)) from exc
        self.stdout.write(f"{commit}: {'its rows are there' if is_landed else 'its rows go there anew'}")
        if ForeignCommit.objects.filter(flush=commit.flush_id).exclude(question="").exists():
            return
        fuse_box.mend([parent.name], accept=False)
        again = "recover_fallback --reset" if commit.flush.trigger == RECOVERY else "flush_buffers"
        self.stdout.write(f"It goes on; at once with `manage.py {again} --parent {parent.name}`")

    def _begin_anew(self) -> None:
        if numbers := [str(pk) for pk in intents.in_doubt().values_list("pk", flat=True)]:
            raise CommandError(f"in doubt are the flushes {', '.join(numbers)}; finish or answer them first")
        self.stdout.write(f"This installation is {intents.begin_anew()} from now on; mend fuses with `manage.py fuse`")


def _commit(flush: int | None, table: str | None) -> ForeignCommit:
    if flush is None or table is None:
        raise CommandError("an answer is for one table: type --flush NUMBER --table NAME, as `manage.py in_doubt` says")
    open_ones = Flush.objects.filter(pk__in=intents.in_doubt().values("pk"), pk=flush)
    found = ForeignCommit.objects.filter(flush__in=open_ones, table=table).select_related("flush__parent").first()
    if found is None:
        raise CommandError(f"flush {flush} has no table {table!r} in doubt; `manage.py in_doubt` lists what is")
    if not found.question:
        raise CommandError(f"nobody asks about {found}; the next flush looks for itself")
    return found
