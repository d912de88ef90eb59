"""Somebody else's program: it hears of every change by webhook, and believes only what is signed.

    WEBHOOK_SECRET=whsec_... python examples/todo/receiver.py PORT heard.sqlite3

Nothing in here is of EvoDB. A message is known by its `webhook-id`, which is the same at every attempt: what comes
twice is counted and done once. GET / shows what was heard, GET /heard says it as JSON.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import json
import os
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOLERANCE_S = 300
BODY_BYTES_MAX = 2 * 1024 * 1024
PAGE = """<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>Heard</title>
<h1>Heard</h1><p>{refused} messages were not signed and are not here.</p><table cellpadding="4">{rows}</table>"""


def is_signed(secret: str, headers: Mapping[str, str], body: bytes, *, now_s: float) -> bool:
    """As https://www.standardwebhooks.com has it: id, time and body, and a time that is not long ago."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit()) or abs(now_s - int(timestamp)) > TOLERANCE_S:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    wanted = b"v1," + base64.b64encode(digest)
    given = headers.get("webhook-signature", "").encode().split(b" ")
    return any(hmac.compare_digest(wanted, one) for one in given)


class Heard:
    """What was heard, in a file: a receiver that was down still knows what it has."""

    def __init__(self, path: str) -> None:
        self._path = path
        with closing(self._connect()) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS heard"
                " (number INTEGER PRIMARY KEY, webhook_id TEXT UNIQUE, arrivals INTEGER, body TEXT)"
            )
            connection.execute("CREATE TABLE IF NOT EXISTS refused (number INTEGER PRIMARY KEY)")

    def take(self, webhook_id: str, body: str) -> None:
        with closing(self._connect()) as connection:
            connection.execute(
                "INSERT INTO heard (webhook_id, arrivals, body) VALUES (?, 1, ?)"
                " ON CONFLICT (webhook_id) DO UPDATE SET arrivals = arrivals + 1",
                (webhook_id, body),
            )

    def refuse(self) -> None:
        with closing(self._connect()) as connection:
            connection.execute("INSERT INTO refused DEFAULT VALUES")

    def everything(self) -> dict[str, Any]:
        with closing(self._connect()) as connection:
            rows = connection.execute("SELECT webhook_id, arrivals, body FROM heard ORDER BY number").fetchall()
            (refused,) = connection.execute("SELECT count(*) FROM refused").fetchone()
        messages = [{"id": one, "arrivals": arrivals, "event": json.loads(body)} for one, arrivals, body in rows]
        return {"messages": messages, "refused": refused}

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=10, isolation_level=None)


class Hook(BaseHTTPRequestHandler):
    heard: Heard
    secret: str

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            self._answer(413)
            return
        body = self.rfile.read(int(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not is_signed(self.secret, headers, body, now_s=time.time()):
            self.heard.refuse()
            self._answer(401)
            return
        self.heard.take(headers["webhook-id"], body.decode())
        self._answer(204)

    def do_GET(self) -> None:
        found = self.heard.everything()
        if self.path == "/heard":
            self._answer(200, "application/json", json.dumps(found))
            return
        cells = (
            (one["event"].get(name, "") for name in ("ts", "type", "docId", "doc")) for one in found["messages"][::-1]
        )
        rows = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}' for cell in row)}" for row in cells)
        self._answer(200, "text/html; charset=utf-8", PAGE.format(refused=found["refused"], rows=rows))

    def _answer(self, status: int, content_type: str = "", text: str = "") -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(text.encode())))
            self.send_header("Content-Type", content_type or "text/plain")
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    port, path = sys.argv[1:]
    Hook.secret, Hook.heard = os.environ["WEBHOOK_SECRET"], Heard(path)
    with ThreadingHTTPServer(("127.0.0.1", int(port)), Hook) as server:
        server.serve_forever()
