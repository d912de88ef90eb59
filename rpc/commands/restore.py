"""make an edge database anew from the lake, as it is or as it was

    evodb restore --child shop --as-of '2026-01-31 12:00:00' out.db --parent ws://127.0.0.1:8800/ws

It asks the parent over HTTP, with a key that may query. A time without a zone is UTC, and of the child's clock: what
is restored is all the child had done up to the last change it dates so. Values are as they were captured; the schema is
inferred from them (docs/time-travel.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request

from rpc.commands import endings, screen
from rpc.commands import options as given
from rpc.commands.endings import OK, UsageError
from rpc.commands.parents import NoParentError
from rpc.errors import AccessDeniedError, ConnectionError, LakehouseRpcError
from rpc.http import opener
from rpc.restored_file import RestoreError, into_file
from rpc.restoring import Ask, Page, restore

ANSWER_S = 120
TRIES = 10
AGAIN_S = 1.0
BUSY, DENIED, UNUSABLE = (429, 503), (401, 403), 400


def command(argv: list[str]) -> int:
    return endings.ended(_parser(), run, argv)


def _parser() -> argparse.ArgumentParser:
    made = given.parser("restore", __doc__)
    made.add_argument("out", help="the SQLite file to make; it may not exist yet")
    given.with_parent(made)
    made.add_argument("--child", metavar="NAME", required=True, help="whose database it is")
    made.add_argument("--as-of", metavar="TIME", default="", help="such as '2026-01-31 12:00:00'; else as it is now")
    made.add_argument("--namespace", metavar="NAME", default="lake", help="where its parent keeps its tables (lake)")
    return made


def run(options: argparse.Namespace) -> int:
    folder, out = given.folder_of(options.out), Path(options.out)
    if out.exists():
        raise UsageError(f"{out} exists already; type the path of a file to be made")
    ask = over_http(address_of(given.parent_of(options)), given.token_of(options))
    child = given.child_of(options.child)
    made = into_file(
        folder / out.name, lambda db: restore(ask, db, child, namespace=options.namespace, as_of=options.as_of)
    )
    with closing(screen.of(as_json=options.json)) as shown:
        for table, rows in made.tables.items():
            shown.event("table", f"{table}: {rows} rows", table=table, rows=rows)
        rows = sum(made.tables.values())
        shown.event("restored", f"{rows} rows of {len(made.tables)} tables are in {out}", path=str(out), rows=rows)
    for text in made.warnings:
        endings.warn("evodb restore", text, as_json=options.json)
    return OK


def address_of(parent: str) -> str:
    """Where the parent at this WebSocket address answers queries."""
    found = urlsplit(parent)
    before, socket, _ = found.path.rpartition("/ws")
    if not socket:
        raise UsageError(f"--parent is {parent!r}, a parent is at /ws or /ws/NAME; type --parent {given.EXAMPLE}")
    return f"{ {'ws': 'http', 'wss': 'https'}[found.scheme] }://{found.netloc}{before}/query"


def over_http(url: str, token: str | None) -> Ask:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def ask(sql: str, values: Mapping[str, Any]) -> Page:
        body = json.dumps({"sql": sql, "parameters": dict(values)}).encode()
        try:
            found = _answer(Request(url, data=body, headers=headers))  # noqa: S310 - http or https
        except HTTPException as exc:
            raise ConnectionError(f"{url} is no HTTP, or its answer ended in the middle: {exc}") from None
        try:
            return Page(found["rows"], found["truncated"])
        except (TypeError, LookupError):
            raise NoParentError(f"{url} answered something else, wanted a parent that knows /query") from None

    return ask


def _answer(request: Request) -> Any:
    """Whoever is busy is asked again for a while."""
    for left in reversed(range(TRIES)):
        try:
            with opener.open(request, timeout=ANSWER_S) as answer:
                return json.load(answer)
        except HTTPError as exc:
            with closing(exc):
                reason = _reason(exc.read())
            if exc.code in BUSY and left:
                threading.Event().wait(AGAIN_S)
                continue
            raise _refusal(request.full_url, exc.code, reason) from None
        except (URLError, OSError) as exc:
            raise ConnectionError(f"cannot reach {request.full_url}: {getattr(exc, 'reason', exc)}") from None
        except ValueError:
            raise NoParentError(f"{request.full_url} answered no JSON, wanted a parent that knows /query") from None
    raise AssertionError("unreachable")


def _refusal(url: str, status: int, reason: str) -> LakehouseRpcError:
    if status in DENIED:
        return AccessDeniedError(f"{url} refuses this key, which needs the scope query: {reason}")
    if status == UNUSABLE and reason:
        return RestoreError(f"the parent cannot answer that: {reason.splitlines()[0]}")  # below stands our own SQL
    return NoParentError(f"{url} answered with HTTP {status}{reason and f': {reason}'}")


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError):
        return ""


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
