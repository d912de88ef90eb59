"""send the rows of a file, or of a pipe, as changes of one table

    evodb send --parent ws://127.0.0.1:8800/ws --child import --table orders orders.jsonl
    psql -c "\\copy orders to stdout csv header" | evodb send --parent ... --child import --table orders --format csv

Each line of JSON is one row, and travels as it stands, digit by digit. A CSV file has its names in the first line; its
values are text, nothing is null. A bad line ends the command: all lines before it are sent, nothing behind it is.
What the parent has not acknowledged stays in the outbox file; `evodb send` of an empty file sends it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from rpc.client import LakehouseRpcClient, create_rpc_client
from rpc.commands import options as given
from rpc.commands import rows as files
from rpc.commands import screen
from rpc.commands.rows import BadLineError
from rpc.commands.screen import Screen
from rpc.entries import OPERATION_CODES, RawEntry
from rpc.errors import LakehouseRpcError
from rpc.messages import WalOperation

TOGETHER = 500
WAITING_MAX = 20_000
"""Rows are read on only while fewer wait for their ack."""


def command(argv: list[str]) -> int:
    return given.ended("send", run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    made = given.parser("send", __doc__)
    made.add_argument("file", nargs="?", default="-", help="JSON lines or CSV; standard input when absent or -")
    given.with_parent(made)
    made.add_argument("--child", metavar="NAME", required=True, help="who sends")
    made.add_argument("--table", metavar="T", required=True, help="the table these rows belong to")
    made.add_argument("--op", choices=list(WalOperation.__members__), default="INSERT", help="what happened to them")
    made.add_argument("--key", metavar="A,B", help="the columns that name a row; else `id`, if there is one")
    made.add_argument("--format", choices=["jsonl", "csv"], help="else by the file's suffix, and jsonl for a pipe")
    made.add_argument("--outbox", metavar="FILE", help="where rows wait; else evodb-outbox-CHILD.sqlite3 right here")
    return made


def run(options: argparse.Namespace) -> int:
    url, child, table = given.parent_of(options), given.child_of(options.child), given.table_of(options.table)
    keys = options.key.split(",") if options.key else None
    is_csv = options.format == "csv" or (not options.format and options.file.endswith(".csv"))
    source = None if options.file == "-" else given.existing(options.file)
    more = {"outbox": options.outbox} if options.outbox else {}
    shown = screen.of(as_json=options.json)
    stream = sys.stdin.buffer if source is None else source.open("rb")
    try:
        client = create_rpc_client(url, child, token=given.token_of(options), **more)
        found = files.read(
            stream, is_csv=is_csv, table=table, operation=OPERATION_CODES[WalOperation(options.op)], keys=keys
        )
        return asyncio.run(_send(client, found, shown, Source(stream, source)))
    finally:
        shown.close()
        if source is not None:
            stream.close()


class Source:
    """How far a file is read; nobody knows of a pipe."""

    def __init__(self, stream: BinaryIO, path: Path | None) -> None:
        self._stream = stream
        self.size_bytes = path.stat().st_size if path is not None else None

    @property
    def done_bytes(self) -> int:
        return self._stream.tell() if self.size_bytes is not None else 0


async def _send(client: LakehouseRpcClient, found: Iterator[RawEntry], shown: Screen, source: Source) -> int:
    sent = 0
    try:
        await client.connect()
        for entries in _together(found):
            if isinstance(entries, BadLineError):
                await client.drain()
                raise LakehouseRpcError(f"{entries}; the {sent} rows before it are sent, nothing behind it is")
            await client.send_many(entries)
            sent += len(entries)
            if await asyncio.to_thread(lambda: client.outbox.pending_entries) >= WAITING_MAX:
                await client.drain()
            if source.size_bytes is None:
                shown.progress("rows", sent, None)
            else:
                shown.progress("bytes", source.done_bytes, source.size_bytes)
        await client.drain()
        _complain_of_refusals(client)
        shown.event("sent", f"{sent:,} rows sent and acknowledged", rows=sent)
    except LakehouseRpcError as exc:
        raise LakehouseRpcError(f"{exc}{await _kept(client)}") from exc
    finally:
        await _put_away(client)
    return given.OK


def _together(found: Iterator[RawEntry]) -> Iterator[list[RawEntry] | BadLineError]:
    """Rows in lots, and at the end the line that could not be read, if there is one."""
    bad: list[BadLineError] = []

    def until_bad() -> Iterable[RawEntry]:
        try:
            yield from found
        except BadLineError as exc:
            bad.append(exc)

    entries = iter(until_bad())
    while lot := list(islice(entries, TOGETHER)):
        yield lot
    yield from bad


def _complain_of_refusals(client: LakehouseRpcClient) -> None:
    letters = client.outbox.dead_letters()
    if letters:
        rows = sum(letter.entries for letter in letters)
        raise LakehouseRpcError(f"the parent refused {rows} rows for good: {letters[0].reason}")


async def _kept(client: LakehouseRpcClient) -> str:
    waiting = await asyncio.to_thread(lambda: client.outbox.pending_entries)
    return f"; {waiting} rows wait in {client.outbox.path}" if waiting else ""


async def _put_away(client: LakehouseRpcClient) -> None:
    """Close; an outbox in which nothing is left needs no file."""
    await client.disconnect()
    outbox = client.outbox
    is_empty = not await asyncio.to_thread(lambda: outbox.pending_entries or len(outbox.dead_letters()))
    if is_empty:
        Path(f"{outbox.path}.lock").unlink(missing_ok=True)
    await client.close()
    if is_empty:
        outbox.path.unlink(missing_ok=True)
