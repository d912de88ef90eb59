"""`manage.py replay`: put dead letters into the journal again, or delete them. docs/dead-letters.md says when."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.db.models import Count, QuerySet

from lakehouse import clock
from lakehouse.flush import letters
from lakehouse.management.letters import chosen, number, with_choice
from lakehouse.management.operation import Operation, printable
from lakehouse.models import DeadLetter, DeadLetterState, Parent

LINES_MAX = 20
REASON_CHARS_MAX = 100


class Command(Operation):
    help = "Replay dead letters: the next flush reads them with the code as it is now. Without options, all that wait."

    def add_arguments(self, parser: ArgumentParser) -> None:
        with_choice(parser)
        parser.add_argument("--limit", metavar="N", help="at most so many, the oldest first")
        parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
        parser.add_argument("--purge", action="store_true", help="delete them for ever instead; asks for --yes")
        parser.add_argument("--yes", action="store_true", help="with --purge: I mean it")

    def handle(self, *, dry_run: bool, purge: bool, yes: bool, limit: str | None, **options: Any) -> None:
        found = chosen(options)
        states = [DeadLetterState.WAITING, DeadLetterState.COMMITTED][: 2 if purge else 1]
        found, limit_number = found.filter(state__in=states), None if limit is None else number("--limit", limit)
        if purge and limit is not None:
            raise CommandError("--limit does not go with --purge; narrow it with --parent, --child, --table or --since")
        if dry_run or (purge and not yes):
            self._show(found, "purged" if purge else "replayed", limit_number)
            if purge and not dry_run:
                raise CommandError("nothing was deleted; a purged letter is gone for ever. Add --yes to delete them")
        elif purge:
            self.stdout.write(f"{letters.purge(found)} dead letters deleted")
        else:
            self._replay(found, limit_number)

    def _replay(self, found: QuerySet[DeadLetter], limit: int | None) -> None:
        done = letters.replay(found, now_ms=clock.now_ms(), limit=limit)
        self.stdout.write(f"{done.letters} dead letters are in the journal again; the next flush takes them")
        for name in Parent.objects.filter(pk__in=done.full).order_by("name").values_list("name", flat=True):
            left = found.filter(parent__name=name).count()
            self.stdout.write(
                f"{name}: its buffer is full and {left} are left; type `manage.py flush_buffers --parent {name}`, "
                "then this again"
            )

    def _show(self, found: QuerySet[DeadLetter], verb: str, limit: int | None) -> None:
        count = found.count()
        self.stdout.write(f"{count if limit is None else min(count, limit)} dead letters would be {verb}")
        reasons = found.values("parent__name", "table", "reason").annotate(count=Count("pk"))
        for row in reasons.order_by("-count", "parent__name", "table", "reason")[:LINES_MAX]:
            reason = row["reason"][:REASON_CHARS_MAX]
            told = f"{row['count']} of {row['parent__name']}, table {row['table'] or '-'}: {reason}"
            self.stdout.write(f"    {printable(told)}")
