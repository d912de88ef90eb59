"""The real server in a thread of its own, and clients of its catalog that nobody here wrote."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
from pyiceberg.catalog.rest import RestCatalog

from lakehouse.conf import Settings
from lakehouse.parent import access
from lakehouse.query import duck
from lakehouse.query.quoting import quoted
from tests.builders import NOW_MS
from tests.lakehouse.http_site import Heard
from tests.server import serving


@dataclass(frozen=True)
class Site:
    root: str
    settings: Settings

    @property
    def url(self) -> str:
        return f"{self.root}/iceberg"

    def ask(self, method: str, path: str, document: Any = None, *, token: str = "", **headers: str) -> Heard:
        """`path` stands behind /v1/ and is sent as it is."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Authorization": f"Bearer {token}"} if token else {}
        data = document if isinstance(document, bytes | None) else json.dumps(document).encode()
        request = urllib.request.Request(f"{self.url}/v1/{path}", data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as found:
                return Heard(found.status, dict(found.headers), found.read())
        except urllib.error.HTTPError as exc:
            with exc:
                return Heard(exc.code, dict(exc.headers), exc.read())

    def pyiceberg(self, **properties: str) -> RestCatalog:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return RestCatalog("evodb", uri=self.url, **properties)

    @contextmanager
    def duckdb(
        self, *, token: str = "", secret: str = "", bare: bool = False, delegation: str = "vended_credentials"
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """`bare`: it knows no key to the store but those the catalog lends; `none` as `delegation` asks for none."""
        with duck.connect(None if bare else self.settings) as connection:
            login = "SECRET rest"
            if token:
                connection.execute(f"CREATE SECRET rest (TYPE iceberg, TOKEN {quoted(token)})")
            elif secret:
                connection.execute(
                    f"CREATE SECRET rest (TYPE iceberg, CLIENT_ID 'anybody', CLIENT_SECRET {quoted(secret)}, "
                    f"OAUTH2_SERVER_URI '{self.url}/v1/oauth/tokens')"
                )
            else:
                login = "AUTHORIZATION_TYPE 'none'"
            login += f", ACCESS_DELEGATION_MODE '{delegation}'"
            connection.execute(f"ATTACH '' AS lake (TYPE iceberg, ENDPOINT '{self.url}', {login})")
            yield connection


@contextmanager
def site(folder: Path | None = None, **settings: Any) -> Iterator[Site]:
    """Over this folder, in an event loop of its own."""
    ready: asyncio.Future[Any] | None = None
    started = threading.Event()
    said: dict[str, Any] = {}

    async def serve() -> None:
        nonlocal ready
        ready = asyncio.get_running_loop().create_future()
        given = {"data_dir": folder} if folder else {}
        async with serving(**given, **settings) as server:
            said.update(server=server, loop=asyncio.get_running_loop())
            started.set()
            await ready

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(30)
        server = said["server"]
        yield Site(server.url.replace("ws://", "http://").removesuffix("/ws"), server.settings)
    finally:
        if ready is not None:
            said["loop"].call_soon_threadsafe(ready.set_result, None)
        thread.join(30)


@contextmanager
def site_with_a_table(folder: Path) -> Iterator[Site]:
    """It is `lake.t` and empty."""
    with site(folder) as found:
        found.ask("POST", "namespaces", {"namespace": ["lake"]})
        assert found.ask("POST", "namespaces/lake/tables", new_table("t")).status == 200
        yield found


def key(*scopes: str, **bound: Any) -> str:
    """A new access key."""
    return access.new_key("k", scopes=scopes, now_ms=NOW_MS, **bound)[1]


def path_of(*levels: str) -> str:
    """The part of a path that names a namespace."""
    return quote("\x1f".join(levels), safe="")


SCHEMA = {
    "type": "struct",
    "schema-id": 0,
    "fields": [{"id": 1, "name": "id", "required": False, "type": "long"}],
}


def new_table(name: str, **more: Any) -> dict[str, Any]:
    """The body that asks for a table."""
    return {"name": name, "schema": SCHEMA} | more


def snapshot(number: int, metadata: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """The updates of an append that no manifest was written for."""
    added = {
        "snapshot-id": number,
        "sequence-number": metadata.get("last-sequence-number", 0) + 1,
        "timestamp-ms": NOW_MS + number,
        "manifest-list": f"{metadata['location']}/metadata/snap-{number}.avro",
        "summary": {"operation": "append"},
        "schema-id": 0,
    }
    if (parent := metadata.get("current-snapshot-id")) not in {None, -1}:
        added["parent-snapshot-id"] = parent
    return [
        {"action": "add-snapshot", "snapshot": added | more},
        {"action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": number},
    ]


def main_is(number: int | None) -> dict[str, Any]:
    return {"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": number}
