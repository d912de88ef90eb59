"""send the rows of a file, or of a pipe, as changes of one table

    evodb send --parent ws://127.0.0.1:8800/ws --child import --table orders orders.jsonl
    psql -c "\\copy orders to stdout csv header" | evodb send --parent ... --child import --table orders --format csv
    evodb send --parent ... --child import --kept        what an earlier run could not send

Each line of JSON is one row, and travels as it stands, digit by digit. A CSV file has its names in the first line; its
values are text, nothing is null. Whatever is read is kept in the outbox file first, and leaves it when the parent has
it. A parent that is away stops no reading; what it did not take is sent by the next run. A bad line ends the command:
all lines before it are sent, nothing behind it is.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import stat
import sys
from contextlib import closing
from io import BytesIO, RawIOBase
from pathlib import Path, PurePath

from rpc import create_rpc_client
from rpc.client import LakehouseRpcClient
from rpc.commands import endings, notices, outboxes, rows, screen, words
from rpc.commands import options as given
from rpc.commands.endings import KeptError, StoppedError, UsageError
from rpc.commands.lines import BadLineError, Lines
from rpc.commands.rows import Shape
from rpc.commands.screen import Screen
from rpc.commands.sending import End, Sending
from rpc.commands.stopping import Stopping
from rpc.config import ChildConfig
from rpc.entries import OPERATION_CODES
from rpc.errors import AccessDeniedError, LakehouseRpcError
from rpc.messages import WalOperation

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""By the suffix of a file."""
CODES = """,
3 the parent is away or refused: what was read is kept in the outbox, and the next run sends it,
130 and 143 ended by Ctrl-C or SIGTERM: what was read is kept likewise"""


def command(argv: list[str]) -> int:
    return endings.ended(_parser(), run, argv)


def _parser() -> argparse.ArgumentParser:
    made = given.parser("send", __doc__, codes=CODES)
    made.add_argument("file", nargs="?", default="-", help="JSON lines or CSV; standard input when absent or -")
    given.with_parent(made)
    made.add_argument("--child", metavar="NAME", required=True, help="who sends")
    made.add_argument("--table", metavar="T", help="the table these rows belong to")
    made.add_argument("--op", choices=list(WalOperation.__members__), default="INSERT", help="what happened to them")
    made.add_argument("--key", metavar="A,B", help="the columns that name a row; else `id`, if there is one")
    made.add_argument("--format", choices=["jsonl", "csv"], help="else by the file's suffix, and jsonl for a pipe")
    made.add_argument("--delimiter", metavar="C", help="what separates the columns of CSV (, and in .tsv a tab)")
    made.add_argument("--from-line", metavar="N", type=int, default=1, help="pass over the lines before this one (1)")
    made.add_argument("--kept", action="store_true", help="read nothing; send what an earlier run kept, and end")
    given.with_wait(made, "for a parent that is away, when all is read", default_s=8)
    made.add_argument("--outbox", metavar="FILE", help="where rows wait; else evodb-outbox-CHILD.sqlite3 right here")
    return made


def run(options: argparse.Namespace) -> int:
    url, child, shape = given.parent_of(options), given.child_of(options.child), _shape(options)
    more = {"outbox": options.outbox} if options.outbox else {}
    # A parent that is away is dialled for ever; how long that is waited for is decided in here.
    config = ChildConfig(max_reconnect_attempts=0)
    with _opened(options) as stream, closing(screen.of(as_json=options.json)) as shown:
        with outboxes.alone_in(given.folder_of(options.outbox) if options.outbox else Path.cwd()):
            client = create_rpc_client(url, child, token=given.token_of(options), config=config, **more)
        end = asyncio.run(_send(client, stream, shape, shown, options))
        outboxes.take_away_if_empty(end.path)
        return _told(end, shown, options)


async def _send(
    client: LakehouseRpcClient, stream: RawIOBase | BytesIO, shape: Shape, shown: Screen, options: argparse.Namespace
) -> End:
    lines = Lines(stream, first=options.from_line)
    found = rows.read(lines, shape, first=options.from_line)
    with notices.heard("evodb send", as_json=options.json) as heard:
        try:
            sending = Sending(client, lines, found, size_bytes=_size_bytes(stream), wait_s=options.wait)
            return await sending.run(Stopping(shown.close), heard, shown)
        finally:
            await client.close()


def _opened(options: argparse.Namespace) -> RawIOBase | BytesIO:
    if options.kept:
        return BytesIO()
    if options.file != "-":
        return given.readable(options.file).open("rb", buffering=0)
    if sys.stdin is not None and sys.stdin.isatty() and not options.json:
        sys.stderr.write("evodb send: reading from the terminal, Ctrl-D ends it\n")
    # Not sys.stdin.buffer: closing that waits for the thread that reads from it.
    return open(0, "rb", buffering=0, closefd=False)


def _size_bytes(stream: RawIOBase | BytesIO) -> int | None:
    """How much there is to read; None of a pipe."""
    try:
        found = os.fstat(stream.fileno())
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _shape(options: argparse.Namespace) -> Shape:
    if options.kept:
        if options.file != "-":
            raise UsageError(f"--kept reads nothing, but {options.file} is named; type --kept without a file")
        return Shape("")
    if options.table is None:
        raise UsageError("no table is named; type --table T, the table in the lake that gets the rows")
    if options.from_line < 1:
        raise UsageError(f"--from-line is {options.from_line}, wanted at least 1; type --from-line 1")
    keys = options.key.split(",") if options.key else None
    operation = OPERATION_CODES[WalOperation(options.op)]
    return Shape(given.table_of(options.table), operation, keys, _delimiter(options))


def _delimiter(options: argparse.Namespace) -> str | None:
    """What separates the columns of CSV; None for lines of JSON."""
    by_suffix = DELIMITERS.get(PurePath(options.file).suffix.lower())
    if options.format == "jsonl" or (not options.format and not by_suffix and options.delimiter is None):
        return None
    chosen: str = options.delimiter if options.delimiter is not None else by_suffix or ","
    if len(chosen) != 1 or chosen in '"\r\n':
        raise UsageError(f"--delimiter is {chosen!r}, wanted one character; type --delimiter ';'")
    return chosen


def _told(end: End, shown: Screen, options: argparse.Namespace) -> int:
    """Say how it ended; returns the exit code, or raises what went wrong."""
    rows_read = words.counted(end.rows, "row")
    if isinstance(end.unread, BadLineError | LakehouseRpcError | OSError):
        raise LakehouseRpcError(_unread(end, end.unread))
    if end.unread is not None:
        raise end.unread
    if end.signal:
        go_on = f"add --from-line {end.line + 1} to go on where this ended" if end.rows else "type the same again"
        hint = _kept_hint(options) if end.is_read else go_on
        raise StoppedError(f"stopped after {rows_read}, {_where(end)}; {hint}", signal=end.signal)
    if end.unsent is not None:
        found = words.of(end.unsent)
        first = f"{found.hint}, then type: " if isinstance(end.unsent, AccessDeniedError) else ""
        raise KeptError(f"{found.error}, {_where(end)}; {first}{_kept_hint(options)}")
    if end.refused:
        refused = sum(letter.entries for letter in end.refused)
        raise LakehouseRpcError(
            f"the parent refused {refused:,} of {words.counted(end.rows + end.earlier, 'row')} for good: "
            f"{end.refused[0].reason}; they lie in {end.path}, `evodb tail {end.path} --once` counts them"
        )
    more = f", and {end.earlier:,} that waited from before" if end.earlier else ""
    shown.event("sent", f"{rows_read} sent and acknowledged{more}", rows=end.rows, earlier=end.earlier)
    return endings.OK


def _unread(end: End, failure: BadLineError | LakehouseRpcError | OSError) -> str:
    """What could not be read, what became of the rows before it, and what to type."""
    go_on = f"add --from-line {end.line + 1}" if end.rows else "type the same again"
    if not isinstance(failure, BadLineError):
        found = words.of(failure)
        return f"{found.error}, after {words.counted(end.rows, 'row')}, {_where(end)}; {found.hint or go_on}"
    before = "nothing was sent"
    if end.rows:
        state = f"kept in {end.path} for the next run" if end.waiting else "sent"
        before = f"{words.counted(end.rows, 'row')} before it {'is' if end.rows == 1 else 'are'} {state}"
    return (
        f"{failure}. Nothing behind it is read, {before}; {failure.hint or f'mend line {failure.number}, then {go_on}'}"
    )


def _where(end: End) -> str:
    """Where the rows are now."""
    if not end.waiting:
        return "nothing waits"
    return f"{words.counted(end.waiting, 'row')} kept in {end.path} for the next run"


def _kept_hint(options: argparse.Namespace) -> str:
    """How what is kept is sent, and what would send it twice."""
    more = f" --outbox {shlex.quote(options.outbox)}" if options.outbox else ""
    command = f"evodb send --child {shlex.quote(options.child)}{more} --kept"
    return f"{command} (every later run sends it too, so do not hand the same rows in again)"
