"""`lake.watermarks`: up to where everything of a child is in a table, and nothing is promised that is not there."""

from __future__ import annotations

import pytest

from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.errors import ForbiddenQuery, InvalidQuery
from lakehouse.fallback.transfer import Transfer
from lakehouse.flush import letters
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal import progress
from lakehouse.journal.accept import accept
from lakehouse.models import DeadLetter, Parent
from lakehouse.query import lake_tables
from lakehouse.query.messages import Name
from rpc.entries import RawEntry
from tests.builders import NOW_MS, entry, frame, parent, run, source
from tests.lakehouse.outage_site import come_back, go_away

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def flusher(tmp_path):
    settings = Settings(data_dir=tmp_path)
    return Flusher("worker-1", settings, chosen(settings), lambda: NOW_MS)


def put(shop, *batches, now_ms=NOW_MS):
    accept([(shop, one) for one in batches], now_ms=now_ms)


def flush(flusher, shop):
    return flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)


def marks(namespace="lake"):
    """By table: epoch, sequence, and whether all that was acknowledged is there."""
    return {one.table_name: (one.epoch, one.seq, one.is_complete) for one in progress.watermarks(namespace)}


def test_what_is_flushed_is_complete_up_to_the_last_entry_of_the_child_in_every_table(flusher):
    shop = source(parent())
    put(shop, frame(1, [*run(1, 3), entry(4, table="items")]))
    flush(flusher, shop)
    assert marks() == {"orders": (1, 4, True), "items": (1, 4, True)}
    (first, _) = progress.watermarks("lake")
    assert (first.parent, first.child, first.received_before_ms) == ("default", "shop-1", NOW_MS)


def test_of_a_table_that_was_dropped_nothing_is_said_to_be_complete(flusher):
    shop = source(parent())
    put(shop, frame(1, [*run(1, 3), entry(4, table="items")]))
    flush(flusher, shop)
    flusher.lake.catalog.drop_table(("lake", "items"))
    assert marks() == {"orders": (1, 4, True)}


def test_what_waits_in_the_journal_holds_the_mark_back(flusher):
    shop = source(parent())
    assert marks() == {None: (0, -1, True)}
    put(shop, frame(1, run(1, 3)))
    assert marks() == {None: (1, 0, False)}
    flush(flusher, shop)
    put(shop, frame(2, run(4, 6)), now_ms=NOW_MS + 5)
    assert marks() == {"orders": (1, 3, False)}
    (one,) = progress.watermarks("lake")
    assert (one.waiting, one.in_fallback, one.received_before_ms) == (3, 0, NOW_MS + 5)


def test_what_is_in_the_fallback_holds_the_mark_back_though_later_entries_are_there(flusher):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    flush(flusher, shop)
    put(shop, frame(2, run(4, 6)))
    go_away(NOW_MS)
    flush(flusher, shop)
    come_back()
    put(shop, frame(3, run(7, 9)))
    flush(flusher, shop)
    assert marks() == {"orders": (1, 3, False)}
    assert progress.watermarks("lake")[0].in_fallback == 3
    Transfer(shop.parent_id, "worker-1", flusher.settings, flusher.lake, lambda: NOW_MS).recover()
    assert marks() == {"orders": (1, 9, True)}


def test_a_dead_letter_holds_its_own_table_back_until_it_is_gone(flusher):
    shop = source(parent())
    broken = RawEntry(5, NOW_MS, 0, b"items", b"r5", b"", b"{nonsense")
    put(shop, frame(1, [*run(1, 3), entry(4, table="items")]), frame(2, [broken, entry(6)]))
    flush(flusher, shop)
    assert marks() == {"orders": (1, 6, True), "items": (1, 4, False)}
    assert {one.table_name: one.dead_letters for one in progress.watermarks("lake")} == {"orders": 0, "items": 1}
    letters.purge(DeadLetter.objects.all())
    assert marks() == {"orders": (1, 6, True), "items": (1, 6, True)}


def test_a_gap_in_the_sequences_holds_the_mark_back_until_it_is_filled(flusher):
    shop = source(parent())
    put(shop, frame(1, run(1, 3)), frame(3, run(7, 9)))
    flush(flusher, shop)
    assert marks() == {"orders": (1, 3, False)}
    put(shop, frame(2, run(4, 6)))
    flush(flusher, shop)
    assert marks() == {"orders": (1, 9, True)}


def test_of_a_child_that_keeps_no_epoch_the_mark_is_in_the_epoch_of_its_last_connection(flusher):
    home = parent()
    first = source(home, epoch=None)
    put(first, frame(1, run(5, 7)))
    flush(flusher, first)
    (one,) = progress.watermarks("lake")
    assert (one.seq, one.is_complete) == (7, True)
    again = source(home, epoch=None)
    put(again, frame(1, run(1, 2, table="items")))
    flush(flusher, again)
    (later, _) = progress.watermarks("lake")
    assert (later.seq, later.is_complete, later.epoch >= one.epoch) == (2, True, True)


def test_every_namespace_has_its_own_and_who_may_not_read_it_is_refused(flusher):
    shop, other = source(parent()), source(parent("eu"))
    Parent.objects.filter(name="eu").update(namespace="eu")
    for one in (shop, other):
        put(one, frame(1, run(1, 3)))
        flush(flusher, one)
    assert [one.parent for one in progress.watermarks("eu")] == ["eu"]
    assert [(one.parent, one.bookmark) for one in progress.commits("eu")] == [("eu", 1)]
    (place,) = lake_tables.places([Name("EU", "Watermarks")], allows=lambda name: name == "eu")
    assert '"eu"' in place.rows.json
    with pytest.raises(ForbiddenQuery):
        lake_tables.places([Name("lake", "watermarks")], allows=lambda name: name == "eu")
    with pytest.raises(ForbiddenQuery):
        lake_tables.places([Name("nowhere", "commits")], allows=lambda name: name == "eu")
    with pytest.raises(InvalidQuery, match=r"there is no table eu\.nothing"):
        lake_tables.places([Name("eu", "nothing")], allows=lambda name: True)


def test_a_childs_own_table_of_that_name_is_what_a_query_means(flusher):
    shop = source(parent())
    put(shop, frame(1, run(1, 3, table="watermarks")))
    flush(flusher, shop)
    (place,) = lake_tables.places([Name("lake", "watermarks")], allows=lambda name: True)
    assert place.rows is None
