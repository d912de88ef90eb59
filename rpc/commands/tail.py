"""watch an outbox: what waits, what is acknowledged, what is refused

    evodb tail app.db                              a captured database
    evodb tail evodb-outbox-import.sqlite3 --json  the outbox of a client, for a program

It only reads, so it may run beside whoever sends. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from contextlib import suppress

from rpc.capture.onlooker import Onlooker, View
from rpc.commands import options as given
from rpc.commands import screen
from rpc.commands.screen import Screen


def command(argv: list[str]) -> int:
    return given.ended("tail", run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    made = given.parser("tail", __doc__)
    made.add_argument("outbox", help="an outbox file, or a database under capture")
    made.add_argument("--once", action="store_true", help="say how things are, and end")
    made.add_argument("--every", metavar="SECONDS", type=float, default=0.2, help="how often to look (0.2)")
    return made


def run(options: argparse.Namespace) -> int:
    if options.every <= 0:
        raise given.UsageError(f"--every is {options.every:g}, wanted more than 0 seconds")
    shown = screen.of(as_json=options.json)
    try:
        with Onlooker(given.existing(options.outbox)) as onlooker:
            asyncio.run(_watch(onlooker, shown, once=options.once, every_s=options.every))
    finally:
        shown.close()
    return given.OK


async def _watch(onlooker: Onlooker, shown: Screen, *, once: bool, every_s: float) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    before, acked = None, 0
    while not stopping.is_set():
        view = onlooker.look()
        if view is not None:
            if before is not None and before.epoch == view.epoch:
                acked += _tell(before, view, shown)
            _show(view, acked, shown)
            before = view
        if once:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await stopping.wait()


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
