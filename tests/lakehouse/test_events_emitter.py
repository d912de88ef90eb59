"""The SDK against the real parent: a view, a task and a script are all a thread that calls `emit`."""

from __future__ import annotations

import asyncio
import json

import pytest

from lakehouse.models import BatchPayload
from rpc import CDCCollection, EventEmitter, SqliteCollection, columns
from tests.lakehouse.events_site import key_of
from tests.lakehouse.test_intake import in_thread
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)


def stored():
    payloads = BatchPayload.objects.order_by("pk").values_list("payload", flat=True)
    return [json.loads(e.after) for payload in payloads for e in columns.decode(bytes(payload)).entries()]


async def test_what_an_application_emits_is_durable_at_the_parent_once(tmp_path):
    async with serving(open=False) as server:
        options = {
            "endpoint": server.url.replace("ws://", "http://").removesuffix("/ws") + "/ingest",
            "api_key": await key_of("acme"),
            "storage": tmp_path / "events.db",
            "cdc": True,
            "background": False,
        }

        def application():
            with EventEmitter("shop-1", **options) as emitter:
                users = CDCCollection(SqliteCollection(emitter.outbox, "users"), emitter, "users")
                users.put("1", {"name": "Ada"})
                emitter.emit("../bad")
                users.delete("1")
                sent = emitter.flush()
                return sent, emitter.pending_count, [one.reason[:13] for one in emitter.set_aside()]

        assert await asyncio.to_thread(application) == (2, 0, ["INVALID_EVENT"])
    rows = await in_thread(stored)
    assert [(row["ns"], row["type"], row["docId"]) for row in rows] == [
        ("acme", "collection.insert", "1"),
        ("acme", "collection.delete", "1"),
    ]
