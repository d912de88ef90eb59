"""DoSQL's client as the integration guide writes it works against a real parent: what it sends is in the lake once."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.dosql_client import DoSQL
from tests.acceptance.processes import WITHIN_S, House, Process, until
from tests.services import free_port

EAGER = {"flush_threshold_entries": 200}
ID = "d0500c0ffee0ddba11"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path, open=True, up_port=free_port()) as house:
        house.prepare(**EAGER)
        for process in (house.daphne, house.worker):
            process.start()
        yield house


async def when(found: Callable[[], Any], what: str, *witnesses: Process) -> None:
    """`until`, while the child goes on."""
    deadline = time.monotonic() + WITHIN_S
    while not found() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    until(found, what, *witnesses, within_s=0)


def write(shop: DoSQL, first: int, count: int) -> None:
    """So many rows, some of them changed and some of them gone again."""
    for number in range(first, first + count):
        row = {"id": f"o-{number}", "total": number, "note": 'ümläut \\ud83d\\ude80 / "quoted"'}
        shop.insert("orders", **row)
        if number % 3 == 0:
            shop.update("orders", row, total=number + 1)
        if number % 5 == 0:
            shop.delete("orders", **row)


def told(event: dict[str, Any]) -> str:
    """One change, whoever tells it."""
    documents = [event.get("before"), event.get("after")]
    return json.dumps([event["operation"], event["table"], event["rowId"], *documents], sort_keys=True)


def stored(row: dict[str, Any]) -> str:
    documents = [None if row[name] is None else json.loads(row[name]) for name in ("_before", "_after")]
    return json.dumps([row["_op"], row["_table"], row["_row_id"], *documents], sort_keys=True)


async def test_what_the_client_of_the_integration_guide_sends_is_in_the_lake_once(house: House) -> None:
    ledger = []
    async with DoSQL(house.url, ID) as shop:
        write(shop, 0, 150)
        shop.flush()
        await when(lambda: shop.is_settled, "the first batches are acknowledged", house.daphne)
        assert shop.heard[0]["type"] == "status"
        acks = [message for message in shop.heard if message["type"] == "ack"]
        assert [(ack["sequenceNumber"], ack["status"]) for ack in acks] == [(0, "ok"), (1, "ok"), (2, "ok")]
        assert [ack["details"]["eventsProcessed"] for ack in acks] == [100, 100, 30]
        await answers_get_lost(shop, house)
        await the_parent_is_killed(shop, house)
        storage = shop.storage
        ledger += shop.ledger
    async with DoSQL(house.url, ID, storage) as shop:
        write(shop, 1000, 90)
        assert shop.ledger[0]["sequence"] == 0
        shop.flush()
        await when(lambda: shop.is_settled, "a child that was started anew is served", house.daphne)
        ledger += shop.ledger
    async with DoSQL(house.url, ID) as shop:
        write(shop, 2000, 90)
        await shop.shutdown()
        assert (shop.storage["last_ack_sequence"], shop.dead_letters) == (1, [])
        [flushed] = [message["result"] for message in shop.heard if message["type"] == "flush_response"] or [{}]
        assert flushed.get("success", True)
        ledger += shop.ledger
    await asyncio.to_thread(house.manage, "flush_buffers", "--wait")
    rows = house.lake()
    assert Counter(map(stored, rows)) == Counter(map(told, ledger))
    assert {(row["_source"], row["_shard"]) for row in rows} == {(ID, f"shard-{ID[:8]}")}
    assert house.journal.rows("SELECT name FROM lakehouse_child") == [(ID,)]


async def answers_get_lost(shop: DoSQL, house: House) -> None:
    """The journal has the batch, its child hears nothing of it and sends it again: `duplicate`."""
    hear, shop._hear = shop._hear, lambda _message: None
    before = house.journalled()
    write(shop, 300, 70)
    await when(lambda: house.journalled() > before, "the batch is in the journal", house.daphne)
    await when(lambda: shop._retries, "its child gives up waiting", house.daphne)
    shop._hear = hear
    shop.flush()
    await when(lambda: shop.is_settled, "it is sent again", house.daphne)
    assert "duplicate" in {message.get("status") for message in shop.heard}


async def the_parent_is_killed(shop: DoSQL, house: House) -> None:
    """With a batch on the wire that it never comes to read."""
    house.daphne.send(signal.SIGSTOP)
    write(shop, 500, 100)
    shop.flush()
    await when(lambda: shop._retries, "nobody answers", house.worker)
    house.daphne.kill()
    house.daphne.start()
    await when(lambda: shop.is_settled, "everything is sent again", house.daphne)
    assert shop.dead_letters == []
