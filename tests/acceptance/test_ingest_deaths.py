"""The parent is killed in the middle of POST /ingest, before the commit and behind it, and as anybody is killed.

Whoever hears no answer sends the same again, as the SDK does: every event that was answered with 200 is in the lake,
and each is there once.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rpc.failpoints import Failpoint
from tests.acceptance.processes import WITHIN_S, House, dies_at, until
from tests.acceptance.test_street import LEASE_MS, new_database
from tests.services import free_port

DATABASE = os.environ.get("EVODB_TEST_DATABASE", "sqlite")
EVENTS, POSTERS = 5, 3
MANY = {"events_requests_per_minute": 10_000_000, "events_per_minute": 1_000_000_000}


@pytest.fixture
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    settings: dict[str, object] = {"open": True, "lease_ms": LEASE_MS, "up_port": free_port(), **MANY}
    if DATABASE == "postgresql":
        settings["database_url"] = new_database(request.getfixturevalue("postgres_url"))
    with House(tmp_path, **settings) as house:
        yield house


class Poster(threading.Thread):
    """An application: batches one after the other, each again until it is answered with 200."""

    def __init__(self, house: House, number: int) -> None:
        super().__init__(daemon=True)
        self.answered: list[str] = []
        self.repeated = 0
        self.enough = threading.Event()
        self._house, self._number = house, number

    def run(self) -> None:
        while not self.enough.is_set():
            first = len(self.answered)
            ids = [f"{self._number}-{first + index}" for index in range(EVENTS)]
            ts = datetime.now(UTC).isoformat(timespec="milliseconds")
            events = [{"type": "custom.x", "ts": ts, "docId": one} for one in ids]
            while not self.enough.is_set():
                heard = post(self._house, "/ingest", {"events": events, "batchId": ids[0]})
                if heard is not None and heard.get("success"):
                    self.repeated += bool(heard.get("deduplicated"))
                    self.answered += ids
                    break
                self.enough.wait(0.02)


def post(house: House, path: str, body: Any) -> Any:
    """The answer; None when there was none."""
    connection = http.client.HTTPConnection("127.0.0.1", house.settings.up_port, timeout=WITHIN_S)
    try:
        connection.request("POST", path, json.dumps(body))
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def test_what_ingest_answered_is_in_the_lake_once_whenever_the_parent_is_killed(house: House) -> None:
    house.prepare()
    house.daphne.start()
    house.worker.start()
    posters = [Poster(house, number) for number in range(POSTERS)]
    for one in posters:
        one.start()
    goes_on(house, posters)
    for point in (Failpoint.RECEIVED, Failpoint.JOURNALLED):
        house.daphne.kill()
        dies_at(house.daphne, point, visit=5)
        goes_on(house, posters)
    assert sum(one.repeated for one in posters) >= 1, "what was committed without an answer came again"
    for one in posters:
        one.enough.set()
        one.join(WITHIN_S)
    answered = Counter(one for poster in posters for one in poster.answered)
    assert set(answered.values()) == {1}
    assert post(house, "/flush?parent=events.default", {})["success"]
    found = Counter(row["docId"] for row in house.lake() if row["_table"] == "events")
    assert set(found.values()) == {1}
    # One batch of each poster may be stored although its answer was not waited for.
    assert answered.keys() <= found.keys()
    assert len(found) <= len(answered) + POSTERS * EVENTS


def goes_on(house: House, posters: list[Poster]) -> None:
    before = [len(one.answered) for one in posters]
    until(
        lambda: all(len(one.answered) >= then + 4 * EVENTS for one, then in zip(posters, before, strict=True)),
        "all are answered again",
        house.daphne,
    )
