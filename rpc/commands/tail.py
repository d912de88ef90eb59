"""watch an outbox: what waits, what is acknowledged, what is refused

    evodb tail app.db                              a captured database
    evodb tail evodb-outbox-import.sqlite3 --json  the outbox of a client, for a program

It only reads, so it may run beside whoever sends. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
from contextlib import closing

from rpc.capture.onlooker import Onlooker, View
from rpc.commands import endings, screen
from rpc.commands import options as given
from rpc.commands.database_files import database
from rpc.commands.endings import UsageError
from rpc.commands.screen import Screen
from rpc.commands.stopping import Stopping
from rpc.errors import LakehouseRpcError


def command(argv: list[str]) -> int:
    return endings.ended(_parser(), run, argv)


def _parser() -> argparse.ArgumentParser:
    made = given.parser("tail", __doc__)
    made.add_argument("outbox", help="an outbox file, or a database under capture")
    made.add_argument("--once", action="store_true", help="say how things are, and end")
    made.add_argument("--every", metavar="SECONDS", type=float, default=0.2, help="how often to look (0.2)")
    return made


def run(options: argparse.Namespace) -> int:
    if not 0 < options.every < float("inf"):
        raise UsageError(f"--every is {options.every:g}, wanted more than 0 seconds; type --every 0.2")
    path = database(options.outbox, wanted="an outbox or a captured database")
    with closing(screen.of(as_json=options.json, quiet_s=0)) as shown:
        asyncio.run(_watch(Onlooker(path), shown, once=options.once, every_s=options.every))
    return endings.OK


async def _watch(onlooker: Onlooker, shown: Screen, *, once: bool, every_s: float) -> None:
    stopping = Stopping(shown.close)
    before, acked = None, 0
    while not stopping.signal:
        view = await asyncio.to_thread(_look, onlooker)
        if view is not None:
            if before is not None and before.epoch == view.epoch:
                acked += _tell(before, view, shown)
            before = view
        if before is not None:
            _show(before, acked, shown)
            if once:
                return
        await stopping.within(every_s)


def _look(onlooker: Onlooker) -> View | None:
    """How things are; None when that is not new, or a writer keeps everybody out for the moment."""
    try:
        return onlooker.look()
    except LakehouseRpcError as exc:
        if getattr(exc.__cause__, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            return None
        raise


def _tell(before: View, view: View, shown: Screen) -> int:
    """Say what happened between two looks; returns how many entries were acknowledged."""
    refused = {letter.sequence: letter for letter in view.dead_letters[len(before.dead_letters) :]}
    gone = {sequence: n for sequence, n in before.unacked.items() if sequence not in view.unacked}
    for sequence, letter in refused.items():
        shown.event(
            "refused", f"batch {sequence} is a dead letter: {letter.reason}",
            sequence=sequence, entries=letter.entries, reason=letter.reason,
        )  # fmt: skip
    acked = {sequence: n for sequence, n in gone.items() if sequence not in refused}
    for sequence, entries in acked.items():
        shown.event("acked", f"batch {sequence} acknowledged, {entries} entries", sequence=sequence, entries=entries)
    return sum(acked.values())


def _show(view: View, acked: int, shown: Screen) -> None:
    text = f"pending {view.pending:,}  in flight {len(view.unacked)}  acked {acked:,}  refused {len(view.dead_letters)}"
    shown.status(
        text, epoch=view.epoch, last_sequence=view.last_sequence, uncut=view.uncut, pending=view.pending,
        unacked_batches=len(view.unacked), acked=acked, dead_letters=len(view.dead_letters),
    )  # fmt: skip
