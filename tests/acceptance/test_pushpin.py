"""Children behind Pushpin stay connected while every process of the parent is killed and started again.

One house and one Pushpin serve all; who kills starts again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.protocol import State

from rpc import ChildConfig, LakehouseRpcClient
from rpc.messages import AckStatus, HeartbeatMessage
from rpc.protocol import decode_message, encode_message
from tests.acceptance import pushpin
from tests.acceptance.processes import WITHIN_S, House, start_with, until
from tests.acceptance.pushpin import KEY, Pushpin
from tests.builders import NOW_MS, run, wire
from tests.services import free_port

IDLE_SOCKETS = 200
MIB = 1024 * 1024
THROUGH_PUSHPIN = ChildConfig(max_batch_bytes=90_000, batch_timeout_ms=20)
"""docs/hibernation.md says so to children behind Pushpin."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    settings: dict[str, object] = {"open": True, "grip": True, "grip_key": KEY, "up_port": free_port()}
    limits = {"connections_per_second": 1000, "max_payload_size": 16 * MIB, "max_event_size": 2 * MIB}
    with House(tmp_path_factory.mktemp("pushpin"), **settings, **limits) as house:
        house.prepare(flush_threshold_ms=300, flush_interval_ms=300)
        yield house


@pytest.fixture(scope="module")
def front(house: House) -> Iterator[Pushpin]:
    start(house)
    with pushpin.running(house.settings.up_port) as front:
        yield front


def start(house: House) -> None:
    for process in (house.daphne, house.worker, house.beat):
        process.start()
    until(lambda: answers(house), "the parent answers", house.daphne)


def kill(house: House) -> None:
    for process in (house.daphne, house.worker, house.beat):
        process.kill()
    assert not answers(house)


def answers(house: House) -> bool:
    try:
        post(house.settings.up_port, b"")
    except ConnectionError:
        return False
    return True


def post(port: int, body: bytes, **headers: str) -> int:
    """What anybody who reaches Django itself can send; the status of the answer."""
    kind = {"content-type": "application/websocket-events", "connection-id": "0a17f4c0"}
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("POST", "/ws", body, kind | {name.replace("_", "-"): headers[name] for name in headers})
        return connection.getresponse().status


def client(front: Pushpin, folder: Path, name: str, config: ChildConfig = THROUGH_PUSHPIN, url: str = "") -> Any:
    return LakehouseRpcClient(url or front.url, name, outbox=folder / f"{name}.outbox", config=config)


def changes(count: int, *, filling: str = "", first: int = 1) -> list[dict[str, Any]]:
    return [
        {"op": "INSERT", "table": "orders", "data": {"id": n, "note": filling}} for n in range(first, first + count)
    ]


async def in_thread(task: Callable[..., Any], *arguments: Any) -> Any:
    """The event loop goes on, and with it the children."""
    return await asyncio.to_thread(task, *arguments)


def idle(front: Pushpin) -> connect:
    return connect(front.url, ping_interval=None, open_timeout=30)


async def test_children_stay_connected_while_every_process_is_killed_and_started_again(
    house: House, front: Pushpin, tmp_path: Path
) -> None:
    async with client(front, tmp_path, "shop-1") as shop, AsyncExitStack() as stack:
        sockets: list[ClientConnection] = [await stack.enter_async_context(idle(front)) for _ in range(IDLE_SOCKETS)]
        await shop.send_many(changes(10))
        await shop.drain()

        await in_thread(kill, house)
        await shop.send_many(changes(10, first=11))
        await in_thread(start, house)
        await shop.drain()

        stats = shop.get_stats()
        assert (stats.reconnects, stats.connected, stats.pending_batches) == (0, True, 0)
        assert {socket.state for socket in sockets} == {State.OPEN}
        for number, socket in enumerate(sockets):
            await go_on(socket, f"cafe-{number}")
        flushed = await shop.request_flush()
        assert flushed.success
    stored = house.changes("shop-1")
    assert [row["id"] for *_, row in stored] == list(range(1, 21))


async def go_on(socket: ClientConnection, name: str) -> None:
    """Neither this process nor the database knew of this socket; it is served as any other."""
    beat = HeartbeatMessage(timestamp=NOW_MS, source_do_id=name, last_ack_sequence=0, pending_entries=0)
    for frame in ("ping", encode_message(beat), wire(1, run(1, 2), source=name)):
        await socket.send(frame)
    assert await socket.recv() == "pong"
    assert decode_message(await socket.recv()).timestamp == NOW_MS
    assert decode_message(await socket.recv()).status is AckStatus.OK


async def test_a_child_in_the_middle_of_sending_loses_nothing_whoever_is_killed(
    house: House, front: Pushpin, tmp_path: Path
) -> None:
    """Pushpin cannot know whether a request under way was served: it closes that socket, and the child comes back."""
    async with client(front, tmp_path, "shop-2") as shop:
        before = house.journalled()
        await shop.send_many(changes(1000, filling="x" * 900))
        async with asyncio.timeout(WITHIN_S):
            while house.journalled() == before:
                await asyncio.sleep(0.005)
        await in_thread(kill, house)
        await in_thread(start, house)
        await shop.drain()
        assert (await shop.request_flush()).success
    stored = house.changes("shop-2")
    assert [row["id"] for *_, row in stored] == list(range(1, 1001))


async def test_a_child_that_sends_faster_than_it_is_answered_is_not_cut_off(
    house: House, front: Pushpin, tmp_path: Path
) -> None:
    """Pushpin 1.36 closes a socket with more than 200 000 bytes waiting, unless it is told one_event."""
    async with client(front, tmp_path, "shop-3") as shop:
        await shop.send_many(changes(100, filling="x" * 80_000))
        await shop.drain()
        assert (shop.get_stats().reconnects, shop.get_stats().acked_batches) == (0, 100)


async def test_large_batches_go_through_the_other_route(house: House, front: Pushpin, tmp_path: Path) -> None:
    config = ChildConfig(max_batch_bytes=16 * MIB - 100_000)
    async with client(front, tmp_path, "shop-4", config, front.awake_url) as shop:
        for size in (4, 15):
            sent = await shop.send_batch(changes(size, filling="x" * (MIB - 200)))
            assert (sent.success, len(sent.sequence_numbers)) == (True, 1), sent
            assert house.journal.one("SELECT max(size_bytes) FROM lakehouse_batch") > (size - 1) * MIB
        assert shop.get_stats().reconnects == 0


async def test_nobody_but_the_proxy_is_served_and_nothing_forged_is_believed(house: House, front: Pushpin) -> None:
    before = house.journalled()
    signed = jwt.encode({"exp": int(time.time()) + 60}, KEY, algorithm="HS256")
    batch = wire(1, run(1, 2))
    body = b"BINARY %x\r\n%s\r\n" % (len(batch), batch)
    for headers, status in (
        ({}, 403),
        ({"grip_sig": "forged"}, 403),
        ({"grip_sig": signed}, 400),
        ({"grip_sig": signed, "meta_evodb": "Zm9yZ2Vk:c2lnbmF0dXJl"}, 400),
    ):
        assert post(house.settings.up_port, body, **headers) == status, headers
    async with connect(front.url, additional_headers={"Meta-Evodb": "Zm9yZ2Vk:c2lnbmF0dXJl"}) as socket:
        await socket.send("ping")
        assert await socket.recv() == "pong"
    assert house.journalled() == before


async def test_keys_are_asked_for_behind_the_proxy_too_and_no_log_has_them(house: House, front: Pushpin) -> None:
    house.daphne.kill()
    start_with(house.daphne, EVODB_OPEN="no")
    await in_thread(until, lambda: answers(house), "the parent answers", house.daphne)
    secret = json.loads(house.manage("accesskey", "create", "--name", "a", "--scope", "ingest", "--json"))["key"]
    for key, admitted in (("wrong", False), (secret, True)):
        if admitted:
            async with connect(f"{front.url}?token={key}") as socket:
                await socket.send(wire(1, run(1, 2)))
                assert decode_message(await socket.recv()).status is AckStatus.OK
        else:
            with pytest.raises(Exception, match="HTTP 401"):
                await connect(f"{front.url}?token={key}")
    assert secret not in front.said + house.daphne.said
