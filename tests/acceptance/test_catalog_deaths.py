"""The process that serves the catalog dies while a client commits two tables, and the client sends the same again."""

from __future__ import annotations

import http.client
import json
import signal
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from rpc.failpoints import VARIABLE, Failpoint
from tests.acceptance.processes import House, until
from tests.lakehouse.rest_site import main_is, new_table, snapshot
from tests.services import free_port


class Client:
    def __init__(self, house: House) -> None:
        self.house = house
        self.root = f"http://127.0.0.1:{house.settings.up_port}/iceberg/v1"

    def ask(self, path: str, document: Any = None) -> Any:
        data = None if document is None else json.dumps(document).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.root}/{path}", data), timeout=60) as found:
            return json.loads(found.read() or "null")

    def snapshots(self) -> list[list[int]]:
        tables = [self.ask(f"namespaces/lake/tables/{name}")["metadata"] for name in "tu"]
        return [[one["snapshot-id"] for one in table["snapshots"]] for table in tables]

    def is_served(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return bool(self.ask("config"))
        return False

    def serve(self, point: Failpoint | None = None, *, visit: int = 1) -> None:
        """From now on by a process that dies there."""
        daphne = self.house.daphne
        usual = daphne.env
        daphne.env = {**usual, VARIABLE: f"{point}=kill@{visit}"} if point else usual
        daphne.start()
        daphne.env = usual
        until(self.is_served, "the catalog is served", daphne)

    def commit_until_death(self, changes: Any) -> None:
        with suppress(urllib.error.URLError, http.client.HTTPException, ConnectionError):
            self.ask("transactions/commit", changes)
        running = self.house.daphne.running
        assert running is not None
        until(lambda: running.poll() is not None, "it dies", self.house.daphne)
        assert running.returncode == -signal.SIGKILL, self.house.daphne.said


def test_two_tables_of_a_transaction_are_both_old_or_both_new_whenever_the_server_dies(tmp_path: Path) -> None:
    with House(tmp_path, open=True, up_port=free_port()) as house:
        house.prepare()
        client = Client(house)
        client.serve(Failpoint.SWAPPED, visit=3)
        client.ask("namespaces", {"namespace": ["lake"]})
        made = [client.ask("namespaces/lake/tables", new_table(name)) for name in "tu"]
        changes = {
            "table-changes": [
                {
                    "identifier": {"namespace": ["lake"], "name": name},
                    "requirements": [main_is(None)],
                    "updates": snapshot(number, table["metadata"]),
                }
                for number, (name, table) in enumerate(zip("tu", made, strict=True), start=1)
            ]
        }
        client.commit_until_death(changes)
        client.serve(Failpoint.COMMITTED)
        assert client.snapshots() == [[], []]
        client.commit_until_death(changes)
        client.serve()
        assert client.snapshots() == [[1], [2]]
        client.ask("transactions/commit", changes)
        assert client.snapshots() == [[1], [2]]
