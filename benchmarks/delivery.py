"""How long after its commit does a subscriber hear of an event?

Question
  With 1000 events/s and 50 subscriptions of which each event is for one: how long from the end of the commit to the
  webhook, at half of the events and at all but one of a hundred? What does it cost when all 50 want every event, in
  batches?

Method
  A house on SQLite in a folder: this process commits 1000 entries once a second (batch, journal, flush), a deliverer is
  a process of its own as in `evodb up`, and the receiver is a third. The receiver notes when a body was read. The lag
  is that moment less the end of the flush that made the event's commit; so it has the poll of the deliverer (250 ms at
  most), reading, matching, writing messages, and the POST on a connection of its own. One clock, one machine.

Last answer (TO BE MEASURED)
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECONDS = int(os.environ.get("SECONDS", "20"))
EVENTS_PER_S = 1000
SUBSCRIPTIONS = 50


class Hook(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    heard: list[tuple[float, int, int]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        now_s = time.time()
        found = json.loads(body)
        for event in found.get("events", [found]):
            self.heard.append((now_s, event["n"], 1))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def event(number: int) -> dict[str, Any]:
    return {"type": f"shop.t{number % SUBSCRIPTIONS}", "ts": "2026-01-01T00:00:00Z", "n": number, "note": "x" * 100}


def receive(port: Any, done: Any, result: Any) -> None:
    class Server(ThreadingHTTPServer):
        request_queue_size = 512
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Hook)
    port.put(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while not done.wait(0.2):
        pass
    result.put(Hook.heard)


def measure(folder: Path, *, everybody: bool) -> None:
    os.environ |= {
        "EVODB_DATA_DIR": str(folder),
        "EVODB_WEBHOOK_NETWORKS": "127.0.0.0/8",
        "DJANGO_SETTINGS_MODULE": "evodb_site.settings",
    }
    import django

    django.setup()
    from django.core.management import call_command

    from lakehouse import up
    from lakehouse.flush.policy import FlushTrigger
    from lakehouse.journal.accept import accept
    from lakehouse.models import Parent
    from lakehouse.subscriptions import desk
    from lakehouse.subscriptions.models import Delivery, Subscription
    from lakehouse.tasks import flusher
    from tests.builders import entry, frame, source

    call_command("migrate", verbosity=0)
    shop = source(Parent.objects.create(name="default"))
    context = multiprocessing.get_context("spawn")
    port, result, done = context.Queue(), context.Queue(), context.Event()
    receiver = context.Process(target=receive, args=(port, done, result), daemon=True)
    receiver.start()
    url, home = f"http://127.0.0.1:{port.get()}/", Parent.objects.get()
    for number in range(SUBSCRIPTIONS):
        more = {"pattern": "**", "batch_events": 1000, "batch_ms": 100} if everybody else {"pattern": f"shop.t{number}"}
        fields = {"name": f"s{number}", "target_kind": "webhook", "target": url, **more}
        desk.subscribe(home, fields, now_ms=0)
    deliverer = subprocess.Popen(up.deliverer().argv)
    ended: dict[int, float] = {}
    began_s, late_s = time.monotonic(), 0.0
    for second in range(SECONDS):
        first = second * EVENTS_PER_S
        content = [entry(first + n, table="events", after=event(first + n)) for n in range(EVENTS_PER_S)]
        accept([(shop, frame(second + 1, content))], now_ms=time.time_ns() // 1_000_000)
        flusher().run(shop.parent_id, trigger=FlushTrigger.MANUAL)
        ended |= dict.fromkeys(range(first, first + EVENTS_PER_S), time.time())
        ahead_s = began_s + second + 1 - time.monotonic()
        late_s = max(late_s, -ahead_s)
        time.sleep(max(0.0, ahead_s))
    deadline_s = time.monotonic() + 120
    wanted = SECONDS * EVENTS_PER_S * (SUBSCRIPTIONS if everybody else 1)
    while time.monotonic() < deadline_s:
        behind = Subscription.objects.filter(commit_number__lt=SECONDS).exists()
        if not behind and not Delivery.objects.filter(state="pending").exists():
            break
        time.sleep(0.2)
    took_s = time.monotonic() - began_s
    done.set()
    heard = result.get(timeout=60)
    deliverer.terminate()
    deliverer.wait(30)
    lags = sorted(1000 * (moment - ended[number]) for moment, number, _ in heard)
    p50, p99 = statistics.median(lags), lags[int(len(lags) * 0.99)]
    name = "all want all, batches" if everybody else "each for one"
    print(f"{name:22} {len(heard):8} of {wanted:8} {took_s:7.1f} s  p50 {p50:7.0f} ms  p99 {p99:7.0f} ms", end="  ")
    print(f"commits at most {late_s:.1f} s late")


def main() -> None:
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
            measure(Path(folder), everybody=sys.argv[1] == "everybody")
        return
    for which in ("one", "everybody"):
        subprocess.run([sys.executable, "-W", "ignore", "-m", "benchmarks.delivery", which], check=True)


if __name__ == "__main__":
    main()
