import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from prometheus_client.parser import text_string_to_metric_families

from lakehouse import metrics
from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import samples
from lakehouse.http.totals import Totals
from lakehouse.journal.accept import accept
from lakehouse.models import Child, ConnectionState, DeadLetter, FallbackBatch, Flush, Parent
from lakehouse.parent import access
from tests.builders import NOW_MS, entry, frame, parent, run, source
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_http_cdc import events, post
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)
EU = ("parent", "eu")


def put(shop, *batches, now_ms=NOW_MS):
    accept([(shop, batch) for batch in batches], now_ms=now_ms)


def flush(shop, tmp_path, *, now_ms=NOW_MS):
    settings = Settings(data_dir=tmp_path)
    Flusher("w", settings, chosen(settings), lambda: now_ms).run(shop.parent_id, trigger=FlushTrigger.MANUAL)


def read(text):
    """The samples under the names they have on the wire; the library puts `_total` behind those of every counter."""
    return {
        (name_in(text, sample.name), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def name_in(text, name):
    return name if f"\n{name}" in text else name.removesuffix("_total")


async def scraped(**options):
    heard = await ask("GET", "/metrics", **options)
    assert heard.status == 200, heard.body
    assert heard.headers["content-type"] == metrics.CONTENT_TYPE
    return read(heard.body.decode())


async def test_an_empty_house_has_no_parents_and_no_connections():
    async with home():
        found = await scraped()
        assert found["dolake_parents",] == 0
        assert found["dolake_active_connections",] == 0


async def test_what_waits_is_counted_with_its_age():
    def arrange():
        shop = source(parent("eu", max_buffer_entries=20, flush_threshold_entries=10))
        put(shop, frame(1, run(1, 3)), frame(1, run(1, 3)))
        put(shop, frame(2, run(4, 5)), now_ms=NOW_MS + 900)
        Child.objects.update(state=ConnectionState.HIBERNATING)
        return Parent.objects.get().pending_bytes

    size_bytes = await asyncio_result(arrange)
    async with home() as (opened, _):
        opened.now_ms = lambda: NOW_MS + 1500
        found = await scraped()
    assert found["dolake_buffer_events", EU] == 5
    assert found["dolake_buffer_bytes", EU] == size_bytes
    assert found["dolake_buffer_utilization", EU] == 0.25
    assert found["dolake_journal_age_seconds", EU] == 1.5
    assert (found["dolake_dedup_checks", EU], found["dolake_dedup_duplicates", EU]) == (3, 1)
    assert found["dolake_ingested_events_total", EU] == 5
    assert found["dolake_connected_sources", EU] == 1
    assert ("dolake_freshness_seconds", EU) not in found


async def asyncio_result(work):
    kept = []
    await in_thread(lambda: kept.append(work()))
    return kept[0]


async def test_what_was_flushed_is_counted_by_table_and_never_twice(tmp_path):
    def first():
        shop = source(parent("eu"))
        put(shop, frame(1, [*run(1, 3), entry(4, table="items")]))
        flush(shop, tmp_path, now_ms=NOW_MS + 700)
        return shop

    shop = await asyncio_result(first)
    async with home():
        found = await scraped()
        assert found["dolake_table_rows_total", EU, ("table", "orders")] == 3
        assert found["dolake_table_rows_total", EU, ("table", "items")] == 1
        size_bytes = found["dolake_table_bytes_total", EU, ("table", "orders")]
        assert size_bytes > 0
        assert (found["dolake_flush_seconds_count", EU], found["dolake_freshness_seconds", EU]) == (1, 0.7)
        assert found["dolake_journal_age_seconds", EU] == 0
        assert await scraped() == found

        def second():
            put(shop, frame(2, run(5, 6)), now_ms=NOW_MS + 1000)
            flush(shop, tmp_path, now_ms=NOW_MS + 1100)

        await in_thread(second)
        found = await scraped()
        assert found["dolake_table_rows_total", EU, ("table", "orders")] == 5
        assert found["dolake_table_bytes_total", EU, ("table", "orders")] > size_bytes
        assert (found["dolake_flush_seconds_count", EU], found["dolake_freshness_seconds", EU]) == (2, 0.1)
    async with home():
        assert await scraped() == found


def test_flushes_are_counted_in_the_bucket_they_took():
    home = parent("eu")
    for number, took_ms in enumerate((100, 101, 60_000, 400_000), 1):
        Flush.objects.create(
            parent=home,
            trigger="age",
            lease_epoch=1,
            state="committed",
            started_ms=NOW_MS,
            finished_ms=NOW_MS + took_ms,
            commit_number=number,
        )
    Flush.objects.create(parent=home, trigger="age", lease_epoch=1, state="abandoned", started_ms=1, finished_ms=2)
    Parent.objects.update(commit_number=4)
    found = read(metrics.text(samples.of_parents(Totals(), patterns=["*"], now_ms=NOW_MS)))
    bucket = "dolake_flush_seconds_bucket"
    counts = [found[bucket, ("le", le), EU] for le in ("0.1", "0.25", "30", "60", "300", "+Inf")]
    assert counts == [1, 2, 2, 3, 3, 4]
    assert found["dolake_flush_seconds_sum", EU] == 460.201
    assert found["dolake_flushes_abandoned_total", EU] == 1


def test_a_second_scrape_reads_only_what_was_committed_since():
    home = parent("eu")
    Parent.objects.update(commit_number=1)
    Flush.objects.create(
        parent=home,
        trigger="age",
        lease_epoch=1,
        state="committed",
        started_ms=1,
        finished_ms=2,
        commit_number=1,
    )
    totals = Totals()
    samples.of_parents(totals, patterns=["*"], now_ms=NOW_MS)
    with CaptureQueriesContext(connection) as queries:
        samples.of_parents(totals, patterns=["*"], now_ms=NOW_MS)
    assert not any("flushtable" in query["sql"] for query in queries)


async def test_dead_letters_and_fallback_are_counted():
    def arrange():
        shop = source(parent("eu"))
        put(shop, frame(1, run(1, 1)))
        batch = Parent.objects.get().batches.get()
        DeadLetter.objects.create(
            parent_id=shop.parent_id,
            child_id=shop.child_id,
            batch=batch,
            encoding="columns",
            payload=b"x",
            reason="r",
            created_ms=1,
        )
        fields = {"parent_id": shop.parent_id, "namespace": "lake", "table": "orders", "rows": 1, "created_ms": 1}
        FallbackBatch.objects.create(payload=b"12345", **fields)
        FallbackBatch.objects.create(payload=b"123", **fields)

    await in_thread(arrange)
    async with home():
        found = await scraped()
    assert (found["dolake_dead_letters", EU], found["dolake_fallback_bytes", EU]) == (1, 8)


async def test_what_the_limits_did_in_this_process_is_counted():
    async with home(burst_capacity=1, messages_per_second=1, max_event_size=200) as (opened, _):
        opened.now_ms = lambda: NOW_MS
        await post({"events": events()})
        await post({"events": events()})
        opened.now_ms = lambda: NOW_MS + 1000
        await post({"events": [events()[0] | {"after": "x" * 300}]})
        found = await scraped()
    assert (found["dolake_rate_limited_total",], found["dolake_event_size_rejections",]) == (1, 1)
    assert (found["dolake_payload_rejections",], found["dolake_peak_connections",]) == (0, 1)


async def test_how_long_the_commits_of_this_process_took_is_a_histogram():
    async with home():
        assert (await scraped())["dolake_commit_seconds_count",] == 0
        await post({"events": events()})
        await post({"events": events()})
        found = await scraped()
    assert found["dolake_commit_seconds_count",] == found["dolake_commit_seconds_bucket", ("le", "+Inf")] == 2
    assert 0 < found["dolake_commit_seconds_sum",] < 60
    bounds = [dict(labels)["le"] for name, *labels in found if name == "dolake_commit_seconds_bucket"]
    assert [float(bound) for bound in bounds] == [*metrics.COMMIT_SECONDS, float("inf")]


async def test_no_child_and_no_address_is_in_a_label():
    async with home():
        await post({"sourceDoId": "secret-shop", "events": events()})
        heard = await ask("GET", "/metrics")
    assert "secret-shop" not in heard.body.decode()
    assert "127.0.0.1" not in heard.body.decode()


async def test_a_key_sees_the_parents_it_is_for():
    await in_thread(lambda: [parent(name) for name in ("eu-1", "eu-2", "us")])
    _, token = await asyncio_result(lambda: access.new_key("k", scopes=["query"], parents="eu-*", now_ms=NOW_MS))
    async with home(open=False):
        found = await scraped(token=token)
    assert {dict(labels).get("parent") for _, *labels in found} == {None, "eu-1", "eu-2"}


def test_parents_and_tables_beyond_the_bound_add_no_series(monkeypatch):
    monkeypatch.setattr(samples, "PARENTS_MAX", 2)
    monkeypatch.setattr(samples, "TABLES_MAX", 2)
    for name in ("a", "b", "c"):
        home = parent(name)
        done = Flush.objects.create(
            parent=home,
            trigger="age",
            lease_epoch=1,
            state="committed",
            started_ms=1,
            finished_ms=2,
            commit_number=1,
        )
        for number, table in enumerate(("t1", "t2", "t3"), 1):
            done.tables.create(
                namespace="lake",
                table=table,
                snapshot_id=number,
                metadata_location="x",
                rows=number,
                files=1,
                size_bytes=10 * number,
            )
    Parent.objects.update(commit_number=1)
    found = read(metrics.text(samples.of_parents(Totals(), patterns=["*"], now_ms=NOW_MS)))
    rows = {tuple(dict(labels).values()): value for (name, *labels), value in found.items() if name == ROWS}
    assert rows == {("a", "t1"): 1, ("a", "t2"): 2, ("a", "*"): 3, ("b", "*"): 6}
    assert found["dolake_parents",] == 3


ROWS = "dolake_table_rows_total"
