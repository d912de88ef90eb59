"""What subscribers hear of documents that came as Arrow, from the journal and from the lake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from asgiref.sync import sync_to_async

from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import Accepted, accept
from lakehouse.models import BatchPayload
from lakehouse.subscriptions.models import Subscription
from rpc import arrow_stream, batch, columns
from rpc.batch import Encoding
from rpc.entries import RawEntry
from tests.builders import NOW_MS, parent, source
from tests.lakehouse.subscription_site import LOOPBACK, Street, receiver, subscribe

pytestmark = pytest.mark.django_db(transaction=True)


@sync_to_async
def flush(street: Street, shop: Any, rows: Any) -> None:
    """One batch of these documents, and its commit."""
    entries = [RawEntry(number, NOW_MS, 0, b"orders", b"r%d" % number) for number in range(1, len(rows) + 1)]
    payload = columns.encode(entries, documents=range(1, len(rows) + 1), streams={b"orders": arrow_stream.write(rows)})
    sent = batch.encode(
        payload, encoding=Encoding.COLUMNS, entry_count=len(rows), source="s", sequence=1, timestamp_ms=NOW_MS
    )
    (verdict,), _ = accept([(shop, batch.read(sent, documents=True))], now_ms=NOW_MS)
    assert isinstance(verdict, Accepted)
    flusher = Flusher("w", street.settings, chosen(street.settings), street.clock)
    assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL) is not None


async def test_a_moment_beyond_every_calendar_keeps_no_subscriber_waiting(settings: Any, tmp_path: Path) -> None:
    settings.EVODB = Settings(data_dir=tmp_path, webhook_networks=LOOPBACK)
    street = Street(settings.EVODB)
    shop = await sync_to_async(lambda: source(parent()))()
    rows = pa.table(
        {
            "n": [1, None, 3],
            "at": pa.array([2**62, 0, None]).cast(pa.timestamp("us", tz="UTC")),
            "day": pa.array([0, 2**31 - 1, None], pa.int32()).cast(pa.date32()),
            "_rest": ['{"n d": 0.10, "_x": [1]}', None, "no JSON"],
        }
    )
    async with receiver() as hook:
        await subscribe(street, shop, hook.url("/early"))
        await flush(street, shop, rows)
        await street.deliver()
        early = {one.json["docId"]: one.json for one in hook.heard}
        assert early.keys() == {"r1", "r2"}
        assert early["r1"]["doc"] == {
            "n": 1, "at": "148108-07-06 14:00:27.387904Z", "day": "1970-01-01", "n d": 0.10, "_x": [1]
        }  # fmt: skip
        assert early["r2"]["doc"] == {"at": "1970-01-01T00:00:00+00:00", "day": "5881580-07-11"}
        late = await subscribe(street, shop, hook.url("/late"))
        await sync_to_async(Subscription.objects.filter(pk=late.pk).update)(commit_number=0)
        await sync_to_async(BatchPayload.objects.all().delete)()
        await street.deliver()
        assert {one.json["docId"]: one.json for one in hook.heard if one.path == "/late"} == early
