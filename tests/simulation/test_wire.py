"""What `send` accepted is in the journal once and in order, whatever the wire does and whoever dies meanwhile."""

import asyncio
import json
import random

import pytest

from lakehouse.models import Batch, BatchPayload
from rpc import columns
from rpc.client import LakehouseRpcClient
from rpc.config import ChildConfig
from tests.lakehouse.test_intake import in_thread
from tests.server import serving
from tests.simulation.chaos import Chaos, wire

pytestmark = pytest.mark.django_db(transaction=True)

CONFIG = ChildConfig(
    max_batch_size=7,
    batch_timeout_ms=5,
    ack_timeout_ms=150,
    handshake_timeout_ms=300,
    initial_retry_delay_ms=5,
    max_retry_delay_ms=20,
    max_reconnect_attempts=0,
    max_retries=2,
)


def journal(name):
    """Every entry's number in the journal of this child, in the order of the child's entries."""
    batches = Batch.objects.filter(child__name=name).order_by("epoch", "sequence").values_list("pk", flat=True)
    payloads = dict(BatchPayload.objects.filter(batch__child__name=name).values_list("pk", "payload"))
    return [json.loads(entry.after)["n"] for pk in batches for entry in columns.decode(bytes(payloads[pk])).entries()]


async def write(client, numbers, chance):
    while numbers:
        size = chance.choice([1, 1, 1, 5, 20])
        some, numbers = numbers[:size], numbers[size:]
        await client.send_many([{"op": "INSERT", "table": "t", "data": {"id": n, "n": n}} for n in some])
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() / 50)


@pytest.mark.parametrize("seed", range(8))
async def test_what_send_accepted_arrives_once_and_in_order(tmp_path, seed):
    chance, chaos, total = random.Random(seed), Chaos(seed), 250
    async with serving() as server, wire(server.url, chaos) as url:
        for life, numbers in enumerate([range(total // 2), range(total // 2, total)]):
            client = LakehouseRpcClient(url, "shop-1", outbox=tmp_path / "outbox.sqlite3", config=CONFIG)
            connecting = asyncio.create_task(client.connect())
            await write(client, list(numbers), chance)
            if life == 0:  # this life ends without a goodbye, in the middle of whatever it was at
                connecting.cancel()
                client._task.cancel()
                await asyncio.gather(connecting, client._task, return_exceptions=True)
                client.outbox.close()
        if seed % 2:
            await server.stop()
            await server.start()
        chaos.heal()
        async with asyncio.timeout(30):
            await connecting
            await client.drain()
        assert client.outbox.dead_letters() == []
        await client.close()
    assert await in_thread(lambda: journal("shop-1")) == list(range(total)), f"seed {seed}, {chaos.happened}"


async def test_the_wire_does_what_it_says():
    chaos = Chaos(1, lose=0.2, double=0.2, delay=0.2, cut=0.2)
    for _ in range(200):
        for what in ("lose", "double", "delay", "cut"):
            chaos._hits(what)
    assert all(20 <= count <= 60 for count in chaos.happened.values())
    assert len(chaos.happened) == 4


async def test_thirty_children_on_a_bad_wire_lose_nothing_and_double_nothing(tmp_path):
    chaos = Chaos(99, lose=0.01, cut=0.003)
    async with serving() as server, wire(server.url, chaos) as url:
        names = [f"shop-{number}" for number in range(30)]
        clients = [LakehouseRpcClient(url, name, outbox=tmp_path / name, config=CONFIG) for name in names]
        connecting = [asyncio.create_task(client.connect()) for client in clients]
        await asyncio.gather(*(write(c, list(range(60)), random.Random(n)) for n, c in enumerate(clients)))
        chaos.heal()
        async with asyncio.timeout(60):
            await asyncio.gather(*connecting)
            await asyncio.gather(*(client.drain() for client in clients))
            await asyncio.gather(*(client.close() for client in clients))
    for name in names:
        assert await in_thread(lambda name=name: journal(name)) == list(range(60)), name
