"""How many events a second does one process make durable over HTTP?

Question
  How many events a second does POST /ingest take, durable before the answer, in batches of 100 with a `batchId` each
  (once with an id in every event, too), on uvicorn and on daphne?

Method
  A process of its own speaks HTTP/1.1 over CONNECTIONS sockets that stay open, one request unanswered on each; an event
  is a change of 300 bytes, 9 members. SQLite (WAL, FULL), no worker. Rate: events by the time from the first request to
  the last answer. The load has the other core.

Last answer (November 2026, 2 cores of a virtual machine, CPython 3.11)

    one round, quiet                           events/s   CPU us each    peak MiB
      uvicorn   plain                            50 847          19.4         131
      uvicorn   an id in every event             24 401          37.1         131
      daphne    plain                            46 964          21.0         135
      daphne    an id in every event             24 577          37.1         134

    make bench-events
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from urllib.parse import urlsplit

from benchmarks.parent import DAPHNE, UVICORN, cpu_us, django, house, peak_mib

CONNECTIONS = 16
EVENTS = 100
BATCHES = 3000
CONFIG = {"max_buffer_entries": 20_000_000, "max_buffer_bytes": 16 * 2**30}
LIMITS = {
    "EVODB_EVENTS_REQUESTS_PER_MINUTE": "10000000",
    "EVODB_EVENTS_PER_MINUTE": "1000000000",
    "EVODB_ALLOWED_HOSTS": "127.0.0.1",
}
HOME = f"Parent.objects.create(name='events.default', namespace='default', config={CONFIG!r})"


def main() -> int:
    print(f"{'':34}{'events/s':>10}{'CPU us each':>13}{'peak MiB':>10}")
    for server in (UVICORN, DAPHNE):
        for what in ("plain", "ids"):
            with house(server=server, **LIMITS) as (url, parent):
                django(f"from lakehouse.models import Parent; {HOME}")
                before_us = cpu_us(parent)
                command = [sys.executable, "-m", "benchmarks.events", url, what]
                seconds = float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
                events = BATCHES * EVENTS
                each_us = (cpu_us(parent) - before_us) / events
                print(f"{server:10}{what:24}{events / seconds:10,.0f}{each_us:13.1f}{peak_mib(parent):10.0f}")
    return 0


def bodies(what: str, first: int, step: int) -> list[bytes]:
    ts = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    event = {"type": "collection.update", "ts": ts, "do": {"id": "shop-1", "class": "Shop"}, "collection": "users"}
    event |= {"doc": {"name": "Ada Lovelace", "city": "London", "visits": 17, "text": "x" * 100}, "bookmark": "0" * 20}
    found = []
    for number in range(first, BATCHES, step):
        own = [{"id": f"e-{number}-{index}"} if what == "ids" else {} for index in range(EVENTS)]
        events = [event | {"docId": f"user-{index}"} | own[index] for index in range(EVENTS)]
        found.append(json.dumps({"events": events, "batchId": f"b-{number}"}).encode())
    return found


async def send(url: str, batches: list[bytes]) -> None:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    for body in batches:
        head = f"POST /ingest HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        writer.write(head + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert answer.startswith(b"http/1.1 200"), answer
        length = next(line for line in answer.split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
    writer.close()


async def load(url: str, what: str) -> float:
    shares = [bodies(what, number, CONNECTIONS) for number in range(CONNECTIONS)]
    began = time.perf_counter()
    await asyncio.gather(*(send(url, share) for share in shares))
    return time.perf_counter() - began


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(asyncio.run(load(*sys.argv[1:])))
    else:
        sys.exit(main())
