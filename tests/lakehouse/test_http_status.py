import pytest
from django.db import OperationalError

from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import rows
from lakehouse.journal.accept import accept
from lakehouse.models import Child, FallbackBatch, Flush, Parent
from tests.builders import NOW_MS, frame, parent, run, source
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_consumer import hello, socket
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)


async def status(query="", **options):
    heard = await ask("GET", f"/status{query}", **options)
    assert heard.status == 200, heard.body
    return heard.json


def put(shop, *batches, now_ms=NOW_MS):
    accept([(shop, batch) for batch in batches], now_ms=now_ms)


async def test_a_house_nobody_came_to_is_idle_and_empty():
    async with home():
        found = await status()
    assert (found["parent"], found["state"], found["loadLevel"], found["degradedMode"]) == (
        "default",
        "idle",
        "normal",
        False,
    )
    assert found["buffer"] == {
        "batchCount": 0,
        "eventCount": 0,
        "entryCount": 0,
        "totalSizeBytes": 0,
        "utilization": 0.0,
        "oldestBatchTime": None,
        "newestBatchTime": None,
    }
    assert (found["sourceStates"], found["connectedSources"]) == ([], 0)
    assert (found["lastFlush"], found["nextFlushTime"]) == (None, None)
    assert not await in_thread(Parent.objects.exists)


async def test_what_waits_is_the_buffer_and_says_when_it_is_flushed():
    def arrange():
        shop = source(parent(max_buffer_entries=20_000, flush_interval_ms=30_000))
        put(shop, frame(1, run(1, 3)))
        put(shop, frame(2, run(4, 5)), now_ms=NOW_MS + 10)

    await in_thread(arrange)
    async with home():
        found = await status()
    assert (found["state"], found["nextFlushTime"]) == ("receiving", NOW_MS + 30_000)
    buffer = found["buffer"]
    assert (buffer["batchCount"], buffer["eventCount"], buffer["utilization"]) == (2, 5, 0.0003)
    assert (buffer["oldestBatchTime"], buffer["newestBatchTime"]) == (NOW_MS, NOW_MS + 10)
    assert found["dedupStats"] | {"windowMs": 0} == {
        "checks": 2,
        "duplicates": 0,
        "duplicateRate": 0.0,
        "sources": 1,
        "windowMs": 0,
    }


async def test_a_child_is_shown_with_its_state_its_epoch_and_how_far_it_came():
    async with home(), socket() as child:
        await child.ask(hello(epoch=5))
        found = await status()
        assert found["connectedSources"] == 1
        (seen,) = found["sourceStates"]
        assert (seen["sourceDoId"], seen["state"], seen["sourceShardName"]) == ("shop-1", "awake", None)
        assert found["rateLimitMetrics"]["activeConnections"] == 1

    def arrange():
        shop = source(Parent.objects.get(), epoch=5)
        put(shop, *(frame(number, run(number, number)) for number in (1, 2, 4)), frame(1, run(1, 1)))

    await in_thread(arrange)
    async with home():
        found = await status()
    (seen,) = found["sourceStates"]
    assert (seen["epoch"], seen["sequence"], seen["batches"], seen["events"]) == (5, 2, 3, 3)
    assert (seen["duplicates"], seen["lastSeen"], seen["state"]) == (1, NOW_MS, "gone")
    assert (found["dedupStats"]["checks"], found["dedupStats"]["duplicateRate"]) == (4, 0.25)


async def test_the_children_heard_of_last_come_first_and_there_is_a_bound():
    def arrange():
        home = parent()
        Child.objects.bulk_create(Child(parent=home, name=f"c{number}", last_seen_ms=number) for number in range(1005))

    await in_thread(arrange)
    async with home():
        found = await status()
        assert [len(found["sourceStates"]), found["dedupStats"]["sources"]] == [1000, 1005]
        assert [one["sourceDoId"] for one in (await status("?limit=2"))["sourceStates"]] == ["c1004", "c1003"]
        assert (await status("?limit=0"))["sourceStates"] == []


@pytest.mark.parametrize("limit", ["-1", "1001", "x", "1.5", ""])
async def test_a_limit_that_is_none_is_named(limit):
    async with home():
        heard = await ask("GET", f"/status?limit={limit}")
        assert (heard.status, heard.json["error"][:7]) == (400, "limit: ")


async def test_each_parent_is_shown_for_itself():
    await in_thread(lambda: put(source(parent("eu")), frame(1, run(1, 3))))
    async with home():
        assert (await status("?parent=eu"))["buffer"]["eventCount"] == 3
        assert (await status())["buffer"]["eventCount"] == 0


async def test_a_flush_is_shown_with_what_it_did(tmp_path):
    def arrange():
        shop = source(parent())
        put(shop, frame(1, run(1, 3)))
        settings = Settings(data_dir=tmp_path)
        Flusher("w", settings, chosen(settings), lambda: NOW_MS).run(shop.parent_id, trigger=FlushTrigger.MANUAL)

    await in_thread(arrange)
    async with home():
        found = await status()
    assert (found["state"], found["nextFlushTime"]) == ("idle", None)
    shown = {name: found["lastFlush"][name] for name in ("trigger", "batches", "events", "rows", "commitNumber")}
    assert shown == {"trigger": "manual", "batches": 1, "events": 3, "rows": 3, "commitNumber": 1}
    assert found["lastFlush"]["bytesWritten"] > 0


async def test_a_flush_under_way_and_a_fallback_are_states():
    def arrange():
        far = 4_000_000_000_000
        shop = source(parent())
        Parent.objects.update(lease_until_ms=far)
        Flush.objects.create(parent_id=shop.parent_id, trigger="manual", lease_epoch=1, started_ms=1)

    await in_thread(arrange)
    async with home():
        assert (await status())["state"] == "flushing"
        await in_thread(
            lambda: FallbackBatch.objects.create(
                parent=Parent.objects.get(),
                namespace="lake",
                table="orders",
                rows=7,
                payload=b"12345",
                created_ms=3,
                last_error="away",
            )
        )
        found = await status()
    assert found["state"] == "recovering"
    assert found["fallback"] == {"batches": 1, "rows": 7, "bytes": 5, "oldestTime": 3, "lastError": "away"}


async def test_the_limits_are_told_and_what_they_did_but_no_address():
    async with home(messages_per_second=7, whitelisted_ips="203.0.113.0/24") as (opened, _):
        opened.doorman.tally.payload_rejections = 3
        heard = await ask("GET", "/status")
    limits, metrics = heard.json["rateLimits"], heard.json["rateLimitMetrics"]
    assert (limits["messagesPerSecond"], limits["backpressureThreshold"]) == (7, 0.8)
    assert (metrics["payloadRejections"], metrics["activeConnections"]) == (3, 0)
    assert "203.0.113" not in heard.body.decode()


async def test_a_full_buffer_is_a_critical_load():
    await in_thread(
        lambda: put(source(parent(max_buffer_entries=20, flush_threshold_entries=10)), frame(1, run(1, 20)))
    )
    async with home():
        found = await status()
    assert (found["loadLevel"], found["degradedMode"], found["buffer"]["utilization"]) == ("critical", True, 1.0)


async def test_a_database_that_is_away_is_503_and_the_answer_does_not_quote_it(monkeypatch):
    def away(*args, **options):
        raise OperationalError("host secret-host is away")

    monkeypatch.setattr(rows, "picture", away)
    async with home():
        heard = await ask("GET", "/status")
    assert (heard.status, heard.headers["retry-after"]) == (503, "1")
    assert "secret-host" not in heard.body.decode()


@pytest.mark.parametrize("name", ["%00", "a%00b", "%FF%FE", "x" * 5000, "a b"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/status"), ("POST", "/flush"), ("POST", "/cdc")])
async def test_a_parent_that_can_have_no_such_name_is_not_called_a_database_that_is_away(method, path, name):
    async with home():
        heard = await ask(method, f"{path}?parent={name}", b"" if method == "GET" else {"events": []})
    assert heard.status in ((400, 404) if path == "/cdc" else (404,))
