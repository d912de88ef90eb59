"""`manage.py letters`: the dead letters, one by one. docs/dead-letters.md says what to do about them."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from base64 import b64encode
from typing import Any

from lakehouse import clock
from lakehouse.admin.shown import moment_text
from lakehouse.management.letters import chosen, number, with_choice
from lakehouse.management.operation import Operation, printable
from lakehouse.models import DeadLetter, DeadLetterState

LIMIT = "20"
REASON_CHARS_MAX = 200


class Command(Operation):
    help = "Show the dead letters, the newest first: what could not become a row, and why. It only reads."

    def add_arguments(self, parser: ArgumentParser) -> None:
        with_choice(parser)
        parser.add_argument("--state", choices=DeadLetterState.values, help="only letters in this state")
        parser.add_argument("--limit", metavar="N", default=LIMIT, help=f"at most so many; default {LIMIT}")
        parser.add_argument("--json", action="store_true", help="a line of JSON for each, with its payload in base64")

    def handle(self, *, state: str | None, limit: str, json: bool, **options: Any) -> None:
        found = chosen(options).select_related("parent", "child").order_by("-pk")
        if state is not None:
            found = found.filter(state=state)
        shown = found[: number("--limit", limit)]
        for letter in shown if json else shown.defer("payload"):
            self.stdout.write(_document(letter) if json else _text(letter))
        left = found.count() - len(shown)
        if left > 0:
            self.stderr.write(f"{left} older ones are not shown; --limit N shows more", self.style.WARNING)
        elif not json and not shown:
            self.stdout.write("No dead letters.")


def _text(letter: DeadLetter) -> str:
    which = "whole" if letter.entry_index is None else f"entry {letter.entry_index}"
    reason = " ".join(letter.reason.split())[:REASON_CHARS_MAX]
    told = (
        f"{letter.pk}  {moment_text(letter.created_ms, now_ms=clock.now_ms())}  {letter.state}  {letter.parent.name}"
        f"  {letter.child.name}  table {letter.table or '-'}  batch {letter.batch_id} {which}"
    )
    return f"{printable(told)}\n    {printable(reason)}"


def _document(letter: DeadLetter) -> str:
    names = ("table", "state", "reason", "created_ms", "replays", "batch_id", "entry_index", "encoding")
    known = {"id": letter.pk, "parent": letter.parent.name, "child": letter.child.name}
    return json.dumps(
        known | {name: getattr(letter, name) for name in names} | {"payload": b64encode(letter.payload).decode()}
    )
