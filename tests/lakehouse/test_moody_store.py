"""An S3 that answers 500 or 503, not at all, too late, or is cut off when the work is done: each row is there once.

A real S3 (rclone) behind a proxy that has moods, and the clients of real flushes before it.
"""

from __future__ import annotations

import random
import uuid
from urllib.parse import urlsplit

import pytest

from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.own import OwnLake
from lakehouse.catalog.storage import from_settings, properties
from lakehouse.conf import Settings
from lakehouse.errors import StoreUnavailable
from lakehouse.fallback.transfer import Transfer
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.models import Batch, FallbackBatch, IcebergTable, Parent, StoreBreaker
from lakehouse.query import duck
from lakehouse.query.verify import Verdict, Wanted, verify
from lakehouse.torture.flaky_store import MOODS, FlakyStore
from tests.builders import NOW_MS, frame, parent, run, source
from tests.lakehouse.outage_site import OPEN_MS
from tests.services import ObjectStore

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.once,
]

PATIENCE_S = "1"
READS, WRITES = ("GET", "HEAD"), ("PUT", "POST")
STAYS = [*((mood, WRITES) for mood in MOODS), ("503", READS), ("silent", READS)]


class Always(random.Random):
    """Dice by which every request meets a mood."""

    def random(self) -> float:
        return 0.9


class Once(random.Random):
    """By these the first one does, and no other."""

    rolled = False

    def random(self) -> float:
        before, self.rolled = self.rolled, True
        return 0.0 if before else 0.9


@pytest.fixture
def s3(rclone_store):
    made = FlakyStore(urlsplit(rclone_store.endpoint).port, random.Random())
    yield made
    made.close()


@pytest.fixture
def lake_settings(s3: FlakyStore, rclone_store: ObjectStore, tmp_path):
    through = rclone_store.settings | {"s3_endpoint": f"http://127.0.0.1:{s3.port}"}
    warehouse = f"s3://{rclone_store.bucket}/{uuid.uuid4().hex}"
    return Settings(data_dir=tmp_path, warehouse=warehouse, breaker_failures_max=1, breaker_open_ms=OPEN_MS, **through)


@pytest.fixture
def lake(lake_settings, asked_twice):
    return a_lake(lake_settings)


def a_lake(lake_settings):
    """As a worker's, but that it waits for an answer for a second only, and no test for longer."""
    from_settings(lake_settings)
    patience = {"s3.request-timeout": PATIENCE_S, "s3.connect-timeout": PATIENCE_S}
    return OwnLake(DjangoCatalog("evodb", **properties(lake_settings), **patience))


@pytest.fixture
def flush(lake_settings, asked_twice, clock):
    def work(shop, *batches):
        """By another worker than the one before, who wrote these tables and would have to read nothing."""
        accept([(shop, one) for one in batches], now_ms=NOW_MS)
        flusher = Flusher("worker-1", lake_settings, a_lake(lake_settings), clock)
        return flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)

    return work


def assert_each_row_is_there_once(settings, first, last):
    [report] = verify(settings, Wanted())
    assert (report.verdict, report.waiting, report.fallback) == (Verdict.GREEN, 0, 0)
    location = IcebergTable.objects.get().metadata_location
    with duck.connect(settings) as reader:
        found = reader.execute(f"SELECT _seq FROM {duck.scan(location)} ORDER BY _seq").fetchall()
    assert [number for (number,) in found] == list(range(first, last + 1))
    assert set(Batch.objects.values_list("state", flat=True)) == {"persisted"}


@pytest.mark.parametrize(("mood", "methods"), STAYS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_a_store_that_stays_like_this_opens_the_breaker_and_each_row_is_there_once(
    mood, methods, s3, flush, lake_settings, lake, clock
):
    shop = source(parent())
    assert flush(shop, frame(1, run(1, 3))).commit_number == 1
    s3._dice, s3.moods, s3.methods = Always(), [mood], methods
    with pytest.raises(StoreUnavailable):
        flush(shop, frame(2, run(4, 6)))
    assert s3.met
    assert StoreBreaker.objects.get().state == "open"
    assert Parent.objects.get().pending_batches == 1
    kept = flush(shop, frame(3, run(7, 9)))
    assert (kept.commit_number, kept.entries, FallbackBatch.objects.count()) == (None, 6, 1)
    s3.moods = ()
    clock.ms += OPEN_MS
    Transfer(shop.parent_id, "worker-2", lake_settings, lake, clock).recover()
    assert StoreBreaker.objects.get().state == "closed"
    assert_each_row_is_there_once(lake_settings, 1, 9)


@pytest.mark.parametrize("mood", MOODS)
def test_a_store_that_is_like_this_for_one_write_doubles_nothing(mood, s3, flush, lake_settings):
    shop = source(parent())
    flush(shop, frame(1, run(1, 3)))
    s3._dice, s3.moods, s3.methods = Once(), [mood], WRITES
    try:
        flush(shop, frame(2, run(4, 6)))
    except StoreUnavailable:
        s3.moods = ()
        StoreBreaker.objects.update(state="closed", failures=0)
        flush(shop)
    assert s3.met == 1
    assert_each_row_is_there_once(lake_settings, 1, 6)
