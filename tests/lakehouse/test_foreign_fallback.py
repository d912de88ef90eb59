"""What was kept while a foreign catalog was away goes into its tables once, whoever dies or sleeps on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse.catalog import drafts, intents
from lakehouse.errors import LeaseLost
from lakehouse.fallback import settle
from lakehouse.journal.accept import Source
from lakehouse.models import Batch, FallbackBatch, Flush, ForeignCommit, StoreBreaker
from lakehouse.query.verify import Verdict, Wanted, verify
from rpc.failpoints import Failpoint
from tests.builders import frame, parent, run, source
from tests.lakehouse.foreign_site import Site, a_site, expire, put, unset

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with a_site(tmp_path, monkeypatch) as made:
        yield made


def kept(site: Site, *batches: Any) -> Source:
    """A first flush makes the table; then the store is away for one flush of each batch."""
    shop = source(parent())
    put(shop, frame(1, run(1, 2)))
    site.flush(shop)
    StoreBreaker.objects.create(pk=1, state="open", open_until_ms=site.now_ms + 10**9)
    for batch in batches:
        put(shop, batch)
        site.flush(shop)
    StoreBreaker.objects.update(state="closed", failures=0)
    assert FallbackBatch.objects.count() == len(batches)
    return shop


def assert_all_is_there(site: Site, last: int) -> None:
    assert site.rows() == list(range(1, last + 1))
    assert not FallbackBatch.objects.exists()
    assert not ForeignCommit.objects.exists()
    assert set(Batch.objects.values_list("state", flat=True)) == {"persisted"}
    assert not Flush.objects.filter(state="open").exists()


STEPS = [
    Failpoint.FOREIGN_ANNOUNCED,
    Failpoint.FOREIGN_APPENDING,
    Failpoint.FOREIGN_APPENDED,
    Failpoint.RECOVERY_STAGED,
    Failpoint.RECOVERY_SWAPPED,
]


@pytest.mark.parametrize("point", STEPS)
def test_a_recovery_dies_there_and_the_next_one_finishes_it(site: Site, point: Failpoint) -> None:
    shop = kept(site, frame(2, run(3, 4)), frame(3, run(5, 6)))
    with site.dying(point):
        site.recovery(shop.parent_id).recover()
    doubtful = Flush.objects.get(trigger="recovery")
    put(shop, frame(4, run(7, 8)))
    site.flush(shop)
    assert site.recovery(shop.parent_id, "worker-2").recover().batches
    assert_all_is_there(site, 8)
    assert Flush.objects.get(trigger="recovery").pk == doubtful.pk


def test_what_is_kept_later_is_no_part_of_a_recovery_in_doubt(site: Site) -> None:
    shop = kept(site, frame(2, run(3, 4)))
    with site.dying(Failpoint.FOREIGN_APPENDED):
        site.recovery(shop.parent_id).recover()
    StoreBreaker.objects.update(state="open", open_until_ms=site.now_ms + 10**9)
    put(shop, frame(3, run(5, 6)))
    site.flush(shop)
    StoreBreaker.objects.update(state="closed")
    site.recovery(shop.parent_id).recover()
    assert_all_is_there(site, 6)
    assert list(Flush.objects.filter(trigger="recovery").order_by("pk").values_list("rows", flat=True)) == [2, 2]
    assert {one.verdict for report in verify(site.settings, Wanted()) for one in report.tables} == {Verdict.GREEN}


@pytest.mark.parametrize(("owner", "name"), [(intents, "announce"), (intents, "check_open"), (drafts, "append")])
@pytest.mark.parametrize("is_expired", [False, True])
def test_a_recovery_that_sleeps_is_overtaken_and_loses(site: Site, owner: Any, name: str, is_expired: bool) -> None:
    shop = kept(site, frame(2, run(3, 4)), frame(3, run(5, 6)))

    def be_overtaken() -> None:
        site.later()
        site.recovery(shop.parent_id, "worker-2").recover()
        put(shop, frame(4, run(7, 8)))
        site.flush(shop)
        if is_expired:
            expire(site)

    site.meanwhile(owner, name, be_overtaken)
    late = site.recovery(shop.parent_id)
    with pytest.raises(LeaseLost):
        late.write("lake", "orders", None, FallbackBatch.objects.order_by("pk")[0].pk)
    assert late.rows == 0
    assert_all_is_there(site, 8)


def test_a_recovery_that_was_given_up_for_dead_announces_nothing(site: Site) -> None:
    shop = kept(site, frame(2, run(3, 4)))

    def give_it_up() -> None:
        settle.abandon_dead(shop.parent_id, now_ms=site.now_ms + settle.DEAD_AFTER_MS + 1)

    site.meanwhile(intents, "announce", give_it_up)
    with pytest.raises(LeaseLost):
        site.recovery(shop.parent_id).write("lake", "orders", None, FallbackBatch.objects.get().pk)
    assert not ForeignCommit.objects.exists()
    site.recovery(shop.parent_id).recover()
    assert_all_is_there(site, 4)


def test_a_snapshot_of_a_recovery_that_expired_is_still_known(site: Site) -> None:
    shop = kept(site, frame(2, run(3, 4)))
    with site.dying(Failpoint.FOREIGN_APPENDED):
        site.recovery(shop.parent_id).recover()
    put(shop, frame(3, run(5, 6)))
    site.flush(shop)
    expire(site)
    site.recovery(shop.parent_id).recover()
    assert_all_is_there(site, 6)


def test_nobody_can_tell_of_a_recovery_and_its_rows_wait_with_the_question(site: Site) -> None:
    shop = kept(site, frame(2, run(3, 4)))
    with site.dying(Failpoint.FOREIGN_APPENDED):
        site.recovery(shop.parent_id).recover()
    expire(site)
    unset(site, intents.marker(shop.parent_id, is_recovery=True))
    done = site.recovery(shop.parent_id).recover()
    assert (done.batches, FallbackBatch.objects.count(), site.rows()) == (0, 1, [1, 2, 3, 4])
    assert "manage.py in_doubt --flush" in FallbackBatch.objects.get().last_error
    put(shop, frame(3, run(5, 6)))
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2, 3, 4, 5, 6]
