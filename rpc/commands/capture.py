"""stream the changes of any SQLite database to a parent, while everybody goes on writing

    evodb capture app.db --parent ws://127.0.0.1:8800/ws            every change from now on
    evodb capture app.db --parent ws://127.0.0.1:8800/ws --snapshot the rows that are there as well
    evodb capture app.db --detach                                   take capture out of the database again

Triggers note each change within the transaction that makes it, whoever makes it. A parent that is away stops nothing:
changes wait in the database. One that refuses the key leaves a database as it was that is captured for the first time.
Ctrl-C sends what waits, for five seconds at most (a second one ends at once), and leaves the triggers: what is changed
meanwhile is sent when capture runs again.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import closing
from pathlib import Path

from rpc.address import Address
from rpc.capture.sqlite import SqliteCapture
from rpc.client import LakehouseRpcClient
from rpc.commands import endings, notices, parents, screen, words
from rpc.commands import options as given
from rpc.commands.database_files import database, writable
from rpc.commands.endings import KeptError, UsageError
from rpc.commands.notices import Notices
from rpc.commands.patience import Patience
from rpc.commands.screen import Screen
from rpc.commands.stopping import Stopping
from rpc.commands.streaming import Streaming
from rpc.config import ChildConfig
from rpc.errors import AccessDeniedError, CaptureError, ConnectionError
from rpc.outbox import OutboxBusyError

FIRST_WORD_S = 5
"""A parent that takes longer to answer is away."""
CODES = """,
3 the parent refused, or with --once is away: what it did not take waits in the database for the next run"""


def command(argv: list[str]) -> int:
    return endings.ended(_parser(), run, argv)


def _parser() -> argparse.ArgumentParser:
    made = given.parser("capture", __doc__, codes=CODES)
    made.add_argument("database", help="the SQLite file of an application, running or not")
    given.with_parent(made)
    made.add_argument("--child", metavar="NAME", help="who this is at the parent; else the file's name without suffix")
    made.add_argument("--tables", metavar="A,B", help="only these; else every table, also those made later")
    made.add_argument("--snapshot", action="store_true", help="also send the rows that are there; once, and resumably")
    made.add_argument("--once", action="store_true", help="end when everything is acknowledged")
    given.with_wait(made, "with --once: for a parent that is away", default_s=30)
    made.add_argument("--detach", action="store_true", help="remove triggers and tables of capture, and end")
    made.add_argument("--force", action="store_true", help="with --detach: give up changes that still wait")
    return made


def run(options: argparse.Namespace) -> int:
    tables = _tables(options)
    path = writable(database(options.database, wanted="the SQLite file of an application"))
    if options.detach:
        return _detach(options, path)
    address = Address(given.parent_of(options), given.child_of(options.child or path.stem), given.token_of(options))
    with (
        SqliteCapture(path, tables=tables) as capture,
        closing(screen.of(as_json=options.json)) as shown,
        notices.heard("evodb capture", as_json=options.json) as heard,
    ):
        return asyncio.run(_capture(capture, address, options, heard, shown))


def _tables(options: argparse.Namespace) -> list[str] | None:
    """The tables that are named, None for all. Raises UsageError for options that do not go together."""
    if options.force and not options.detach:
        raise UsageError("--force goes with --detach only; type --detach --force, or leave it out")
    if options.detach and (options.snapshot or options.once):
        raise UsageError("--detach goes without --snapshot and --once; leave them out")
    if not options.tables:
        return None
    named = [name.strip() for name in options.tables.split(",") if name.strip()]
    if not named:
        raise UsageError("--tables names no table; type --tables a,b or leave it out")
    return named


def _detach(options: argparse.Namespace, path: Path) -> int:
    with SqliteCapture(path) as capture:
        was_attached = capture.is_attached
        try:
            if was_attached:
                capture.remove(force=options.force)
        except OutboxBusyError as exc:
            raise CaptureError(f"{words.of(exc).error}; end what uses it, then type the same again") from None
    with closing(screen.of(as_json=options.json)) as shown:
        text = f"{path} is as it was before capture" if was_attached else f"{path} is not captured, nothing was to do"
        shown.event("detached", text, database=str(path), was_attached=was_attached)
    return endings.OK


async def _capture(
    capture: SqliteCapture, address: Address, options: argparse.Namespace, heard: Notices, shown: Screen
) -> int:
    stopping = Stopping(shown.close)
    is_new = not await asyncio.to_thread(lambda: capture.is_attached)
    if is_new:
        await stopping.unless_asked(_first_word(address, capture.path))
        if stopping.signal:
            shown.event("stopped", f"stopped; nothing was changed in {capture.path}", acked=0, pending=0)
            return endings.OK
    tables = await asyncio.to_thread(lambda: _attached(capture, is_new=is_new, snapshot=options.snapshot))
    shown.event(
        "attached", f"{capture.path}: capturing {', '.join(tables) or 'no table yet'} as {address.child_id}",
        database=str(capture.path), child=address.child_id, tables=tables,
    )  # fmt: skip
    config = ChildConfig(max_reconnect_attempts=0)  # a parent that is away comes back some day
    client = LakehouseRpcClient(address.url, address.child_id, outbox=capture, token=address.token, config=config)
    patience = Patience(heard, wait_s=options.wait) if options.once else None
    try:
        waiting = await Streaming(capture, client, heard, shown).run(stopping, patience)
    except ConnectionError as exc:
        raise KeptError(await asyncio.to_thread(_kept, capture, exc)) from None
    kept = f"{waiting:,} wait in {capture.path} for the next run" if waiting else "nothing waits"
    acked = words.counted(capture.acked_entries, "change")
    shown.event("stopped", f"stopped; {acked} acknowledged, {kept}", acked=capture.acked_entries, pending=waiting)
    return endings.OK


async def _first_word(address: Address, path: Path) -> None:
    """Raises what would have left triggers in a database that nobody sends the changes of."""
    try:
        await parents.refuses_nobody(address, within_s=FIRST_WORD_S)
    except ConnectionError as exc:
        found = words.of(exc)
        raise type(exc)(f"{found.error}. Nothing was changed in {path}; {found.hint}") from None


def _attached(capture: SqliteCapture, *, is_new: bool, snapshot: bool) -> list[str]:
    """The tables that are captured now, by this process alone."""
    if not is_new:
        capture.claim()  # before anything is changed under another capture that runs
    tables = capture.attach(snapshot=snapshot)
    capture.claim()
    return tables


def _kept(capture: SqliteCapture, exc: ConnectionError) -> str:
    found, path = words.of(exc), capture.path
    changes = f"{path} goes on noting changes, {capture.pending_entries:,} wait in it"
    first = f"{found.hint}, and " if isinstance(exc, AccessDeniedError) else ""
    return f"{found.error}. {changes}; {first}type the same again (evodb capture {path} --detach takes capture out)"
