"""How long after its commit does a subscriber hear of an event?

Question
  With 1000 events/s and 50 subscriptions of which each event is for one: how long from the end of the commit to the
  webhook, at half of the events and at all but one of a hundred? What does it cost when all 50 want every event, in
  batches?

Method
  A house on SQLite in a folder: this process commits 1000 entries once a second (batch, journal, flush), a deliverer is
  a process of its own as in `evodb up`, and the receiver is a third. The receiver notes when a body was read. The lag
  is that moment less the end of the flush that made the event's commit; so it has the poll of the deliverer (250 ms at
  most), reading, matching, writing messages, and the POST over a connection that is kept. One clock, one machine.

Last answer (2 cores of an AMD EPYC, shared with other work, load 4 to 6; CPython 3.11; SECONDS=10)
  each for one              10000 of    10000    16.1 s  p50    4072 ms  p99    6840 ms  commits at most 0.0 s late
  all want all, batches    500000 of   500000    10.0 s  p50     739 ms  p99    2160 ms  commits at most 0.0 s late

  In words: in batches 50 000 events/s are told within 0.7 s (p50) and 2.2 s (p99) of their commit. One message for each
  event is a connection, a signature and three rows for each: one deliverer sends 600 a second here, so at 1000 it falls
  behind by 0.4 s with every second and catches up when it is over. Who wants more than some hundred events a second
  should want batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

SECONDS = int(os.environ.get("SECONDS", "10"))
EVENTS_PER_S = 1000
SUBSCRIPTIONS = 50
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def event(number: int) -> dict[str, Any]:
    return {"type": f"shop.t{number % SUBSCRIPTIONS}", "ts": "2026-01-01T00:00:00Z", "n": number, "note": "x" * 100}


def receive(port: Any, done: Any, result: Any) -> None:
    """The smallest server that keeps what it hears; it shares the cores."""
    heard: list[tuple[float, int]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await reader.readexactly(int(LENGTH.search(head)[1]))
                now_s, found = time.time(), orjson.loads(body)
                heard.extend((now_s, one["n"]) for one in found.get("events", [found]))
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
        port.put(server.sockets[0].getsockname()[1])
        while not done.is_set():
            await asyncio.sleep(0.2)

    asyncio.run(run())
    result.put(heard)


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
    lags = sorted(1000 * (moment - ended[number]) for moment, number in heard)
    p50, p99 = statistics.median(lags), lags[int(len(lags) * 0.99)]
    name = "all want all, batches" if everybody else "each for one, one by one"
    print(f"{name:26} {len(heard):8} of {wanted:8} {took_s:7.1f} s  p50 {p50:7.0f} ms  p99 {p99:7.0f} ms", end="  ")
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
