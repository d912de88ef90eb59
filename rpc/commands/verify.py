"""compare what a child had acknowledged with what its parent counted, to the last entry

    evodb verify app.db --parent ws://127.0.0.1:8800/ws
    evodb verify postgresql:///shop --child shop --parent ws://127.0.0.1:8800/ws      a captured PostgreSQL

Both keep, for each table, the number of entries and a digest of them that knows no order. It only reads, and may run
beside whoever sends. Whether the lake has what the parent counted says `manage.py verify` there.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request

from rpc import outbox_digest, outbox_looking, verification
from rpc.capture import onlooker
from rpc.commands import endings, screen
from rpc.commands import options as given
from rpc.commands.database_files import database
from rpc.commands.endings import FAILURE, OK, UsageError
from rpc.commands.parents import NoParentError
from rpc.commands.screen import Screen
from rpc.entry_digest import NOTHING, Sum, Sums, merged
from rpc.errors import AccessDeniedError, ConnectionError, LakehouseRpcError
from rpc.http import opener
from rpc.verification import Delivered, Line, Told, Verdict

POSTGRESQL = ("postgresql://", "postgres://")
ANSWER_S = 20
LOOKS = 5
"""As often both sides are looked at while batches are on their way between the looks."""
LOOK_AGAIN_S = 0.2
DENIED = (401, 403)


def command(argv: list[str]) -> int:
    return endings.ended(_parser(), run, argv)


def _parser() -> argparse.ArgumentParser:
    made = given.parser("verify", __doc__)
    made.add_argument("outbox", help="an outbox file, or a database under capture; a PostgreSQL by its URL")
    given.with_parent(made)
    made.add_argument("--child", metavar="NAME", help="who this is at the parent; else the file's name without suffix")
    made.add_argument("--schema", metavar="NAME", default="public", help="of a captured PostgreSQL (public)")
    return made


def run(options: argparse.Namespace) -> int:
    look, name = _looker(options)
    url, token = address_of(given.parent_of(options), given.child_of(name)), given.token_of(options)
    held, told = _looked(look, url, token)
    lines = verification.compare(held, told)
    with closing(screen.of(as_json=options.json)) as shown:
        _show(held, lines, shown)
    return FAILURE if any(line.verdict is Verdict.RED for line in lines) else OK


def _looker(options: argparse.Namespace) -> tuple[Callable[[], Delivered], str]:
    """How to look at what the child counted, and who it is."""
    if not options.outbox.startswith(POSTGRESQL):
        path = database(options.outbox, wanted="an outbox or a captured database")
        return lambda: delivered(path), options.child or path.stem
    if not options.child:
        raise UsageError("a captured PostgreSQL does not know its child's name; type --child NAME")
    return lambda: _of_postgresql(options.outbox, options.schema), options.child


def address_of(parent: str, child: str) -> str:
    """Where the parent at this WebSocket address answers over HTTP."""
    found = urlsplit(parent)
    before, socket, name = found.path.rpartition("/ws")
    if not socket or name.strip("/").count("/") or (name and name[0] != "/"):
        raise UsageError(f"--parent is {parent!r}, a parent is at /ws or /ws/NAME; type --parent {given.EXAMPLE}")
    scheme = {"ws": "http", "wss": "https"}[found.scheme]
    wanted = f"parent={quote(name.strip('/') or 'default', safe='')}&child={quote(child, safe='')}"
    return f"{scheme}://{found.netloc}{before}/verify?{wanted}"


def _looked(look_at_child: Callable[[], Delivered], url: str, token: str | None) -> tuple[Delivered, Told]:
    """Both sides, if possible when nothing was on its way in between."""
    for look in range(LOOKS):
        if look:
            threading.Event().wait(LOOK_AGAIN_S)
        held = look_at_child()
        told = told_of(_ask(url, token))
        if verification.is_settled(held, told):
            break
    return held, told


def delivered(path: Path) -> Delivered:
    """What the file says; it is only read."""
    with onlooker.translated(path):
        return outbox_looking.look(path, outbox_digest.delivered)


def _of_postgresql(conninfo: str, schema: str) -> Delivered:
    try:
        from rpc.capture import postgres_digest
    except ModuleNotFoundError as exc:
        raise UsageError(f"found no {exc.name}, which reads a PostgreSQL; type pip install 'psycopg[binary]'") from None
    return postgres_digest.look(conninfo, schema=schema)


def _ask(url: str, token: str | None) -> Any:
    request = Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310 - http or https
    try:
        with opener.open(request, timeout=ANSWER_S) as answer:
            return json.load(answer)
    except HTTPError as exc:
        with closing(exc):
            reason = _reason(exc.read())
        if exc.code in DENIED:
            raise AccessDeniedError(f"{_shown(url)} refuses this key: {reason}") from None
        raise NoParentError(f"{_shown(url)} answered with HTTP {exc.code}{reason and f': {reason}'}") from None
    except (URLError, OSError) as exc:
        raise ConnectionError(f"cannot reach {_shown(url)}: {getattr(exc, 'reason', exc)}") from None
    except HTTPException as exc:
        raise ConnectionError(f"{_shown(url)} is no HTTP, or its answer ended in the middle: {exc}") from None
    except ValueError:
        raise NoParentError(f"{_shown(url)} answered no JSON, wanted a parent that knows /verify") from None


def told_of(answer: Any) -> Told:
    """What the parent's JSON says. Raises LakehouseRpcError when it says something else."""
    try:
        sums: dict[int, Sums] = {}
        for one in [*answer["committed"], *(answer["waiting"] or [])]:
            counted = _sum(one["entries"], one["digest"]) + _sum(one["unreadable"], one["unreadableDigest"])
            sums[one["epoch"]] = merged(sums.get(one["epoch"], {}), {one["table"]: counted})
        unsummed = answer["fallbackEntries"] + (answer["waitingEntries"] if answer["waiting"] is None else 0)
        return Told(answer["epoch"], answer["sequence"], answer["islands"], sums, unsummed)
    except (KeyError, TypeError, ValueError) as exc:
        raise LakehouseRpcError(f"the parent's answer is not one of /verify: {exc!r}") from None


def _sum(entries: int, digest: str) -> Sum:
    return NOTHING._replace(entries=entries, digest=int(digest, 16))


def _show(held: Delivered, lines: list[Line], shown: Screen) -> None:
    for one in lines:
        counted = f"{one.child.entries} entries acknowledged"
        if one.verdict is not Verdict.GREEN:
            counted += f" ({one.child.hex}), {one.parent.entries} at the parent ({one.parent.hex}): {one.why}"
        shown.event(
            "table", f"{one.table} epoch {one.epoch}: {one.verdict}, {counted}",
            table=one.table, epoch=one.epoch, verdict=one.verdict, why=one.why,
            child={"entries": one.child.entries, "digest": one.child.hex},
            parent={"entries": one.parent.entries, "digest": one.parent.hex},
        )  # fmt: skip
    untold = sum(line.verdict is Verdict.COUNTED for line in lines)
    without = f" ({untold} of them without what is in typed columns)" if untold else ""
    waiting = held.uncut + sum(sums.entries for batch in held.unacked.values() for sums in batch.values())
    red = sum(line.verdict is Verdict.RED for line in lines)
    shown.event(
        "summary",
        f"{f'red: {red} of ' if red else 'green: '}{len(lines)} sums{without}; {waiting} entries wait in the file, "
        f"{held.dead_letters} were refused",
        red=red, counted=untold, sums=len(lines), waiting=waiting, refused=held.dead_letters,
    )  # fmt: skip


def _shown(url: str) -> str:
    return url.partition("?")[0]


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError):
        return ""
