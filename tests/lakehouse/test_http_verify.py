import pytest

from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import verification
from lakehouse.journal.accept import accept
from lakehouse.models import Batch
from lakehouse.parent import access
from rpc import entry_digest
from tests.builders import NOW_MS, frame, parent, run, source
from tests.lakehouse.http_site import ask, home
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)


def arranged(tmp_path):
    """Three entries in the table, two that wait."""
    shop = source(parent(), epoch=7)
    settings = Settings(data_dir=tmp_path)
    accept([(shop, frame(1, run(1, 3)))], now_ms=NOW_MS)
    Flusher("w", settings, chosen(settings), lambda: NOW_MS).run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    accept([(shop, frame(2, run(4, 5)))], now_ms=NOW_MS)


def key(scopes, pattern):
    return access.new_key("k", scopes=scopes, source_pattern=pattern, now_ms=NOW_MS)[1]


def told(entries):
    one = entry_digest.of_entries(entries, epoch=7)["orders"]
    sums = {"epoch": 7, "table": "orders", "entries": one.entries, "digest": one.hex}
    return [sums | {"unreadable": 0, "unreadableDigest": "0" * 16}]


async def test_what_is_in_tables_and_what_waits_is_told_with_its_sums(tmp_path):
    await in_thread(lambda: arranged(tmp_path))
    async with home():
        heard = await ask("GET", "/verify?child=shop-1")
    assert heard.status == 200
    found = heard.json
    assert (found["epoch"], found["sequence"], found["islands"], found["entries"]) == (7, 2, [], 5)
    assert (found["committed"], found["waiting"]) == (told(run(1, 3)), told(run(4, 5)))
    assert (found["waitingEntries"], found["fallbackEntries"]) == (2, 0)


async def test_of_too_many_waiting_entries_only_the_number_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "SUMMED_ENTRIES_MAX", 1)
    await in_thread(lambda: arranged(tmp_path))
    async with home():
        found = (await ask("GET", "/verify?child=shop-1")).json
    assert (found["waiting"], found["waitingEntries"]) == (None, 2)


async def test_batches_that_wait_for_the_object_store_are_told(tmp_path):
    await in_thread(lambda: arranged(tmp_path))
    await in_thread(lambda: Batch.objects.filter(sequence=2).update(state="fallback"))
    async with home():
        found = (await ask("GET", "/verify?child=shop-1")).json
    assert (found["waitingEntries"], found["waiting"], found["fallbackEntries"]) == (0, [], 2)


@pytest.mark.parametrize(
    ("query", "status"), [("child=x", 404), ("child=%00", 404), ("parent=eu&child=shop-1", 404), ("", 400)]
)
async def test_a_child_nobody_knows_is_not_there(query, status):
    async with home():
        heard = await ask("GET", f"/verify?{query}")
    assert (heard.status, "error" in heard.json) == (status, True)


@pytest.mark.parametrize(
    ("scopes", "pattern", "status"),
    [
        (["ingest"], "shop-*", 200),
        (["ingest"], "other-*", 403),
        (["admin"], "other-*", 200),
        (["query"], "*", 403),
    ],
)
async def test_a_child_is_told_of_itself_and_an_admin_of_everybody(tmp_path, scopes, pattern, status):
    await in_thread(lambda: arranged(tmp_path))
    token = await in_thread(lambda: key(scopes, pattern))
    async with home(open=False):
        assert (await ask("GET", "/verify?child=shop-1", token=token)).status == status
        assert (await ask("GET", "/verify?child=shop-1")).status == 401
