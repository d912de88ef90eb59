"""The process that delivers: killed while its target thinks, another one sends the same message under the same id; and
a task goes to the broker of the house.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lakehouse import up
from lakehouse.subscriptions import signatures
from tests.acceptance.processes import ROOT, House, until

SUBSCRIBE_AND_COMMIT = """
import django, sys
sys.path.insert(0, sys.argv[2])
django.setup()
from lakehouse.clock import now_ms
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.models import Parent
from lakehouse.subscriptions import desk
kind = "webhook" if sys.argv[1].startswith("http") else "celery"
fields = {"name": "hook", "pattern": "collection.*", "target_kind": kind, "target": sys.argv[1]}
print(desk.subscribe(Parent.objects.get(), fields, now_ms=now_ms()).secret)
from lakehouse.tasks import flusher
from tests.builders import frame, run, source
shop = source(Parent.objects.get())
accept([(shop, frame(1, run(1, 20)))], now_ms=now_ms())
flusher().run(shop.parent_id, trigger=FlushTrigger.MANUAL)
"""


class Target(ThreadingHTTPServer):
    """Thinks until it is told to answer."""

    daemon_threads = True

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.may_answer = threading.Event()
        super().__init__(("127.0.0.1", 0), Hook)


class Hook(BaseHTTPRequestHandler):
    server: Target

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
        if self.server.may_answer.wait(60):
            self.send_response(204)
            self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.may_answer.set()
        server.shutdown()


def test_a_killed_deliverer_leaves_nothing_stuck_and_nothing_untold(tmp_path: Path, target: Target) -> None:
    with House(tmp_path, webhook_networks="127.0.0.0/8", subscription_lease_ms=1000) as house:
        house.prepare()
        hook = f"http://127.0.0.1:{target.server_port}/"
        secret = house.run([sys.executable, "-c", SUBSCRIBE_AND_COMMIT, hook, str(ROOT)]).strip()
        deliverer = house.another("deliverer", up.deliverer().argv)
        deliverer.start()
        until(lambda: len(target.heard) == 8, "8 are on their way", deliverer)
        deliverer.kill()
        killed = {headers["webhook-id"] for headers, _ in target.heard}
        target.may_answer.set()
        deliverer.start()
        left = "SELECT count(*) FROM subscriptions_delivery WHERE state <> 'delivered'"
        told = "SELECT count(*) FROM subscriptions_delivery"
        until(lambda: house.journal.one(told) == 20 and house.journal.one(left) == 0, "all are delivered", deliverer)
        assert deliverer.end() == 0, deliverer.said
    rows = {json.loads(body)["docId"] for _, body in target.heard}
    assert rows == {f"r{number}" for number in range(1, 21)}
    ids = [headers["webhook-id"] for headers, _ in target.heard]
    assert {one for one in ids if ids.count(one) == 2} == killed
    assert len(ids) == 28
    for headers, body in target.heard:
        assert signatures.is_ours(secret, headers, body, now_s=int(headers["webhook-timestamp"]))


def test_a_task_that_subscribed_waits_at_the_broker_of_the_house(tmp_path: Path) -> None:
    with House(tmp_path, subscription_tasks="shop.*") as house:
        house.prepare()
        house.run([sys.executable, "-c", SUBSCRIBE_AND_COMMIT, "shop.heard", str(ROOT)])
        house.run([*up.deliverer().argv, "--until-idle"])
        queue = tmp_path / "data" / "broker" / "queue"
        told = [json.loads(path.read_bytes())["headers"]["task"] for path in queue.glob("*.msg")]
        assert told == ["shop.heard"] * 20
