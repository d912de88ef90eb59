"""Our own REST endpoint as somebody else's catalog: a second EvoDB serves it, over HTTP, and flushes go there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from requests.exceptions import ReadTimeout

from lakehouse.catalog import drafts, intents
from lakehouse.errors import LeaseLost, OutcomeUnknown
from lakehouse.http import checks
from lakehouse.models import Flush, ForeignCommit, IcebergTable
from rpc.failpoints import Failpoint
from tests.builders import entry, frame, parent, run, source
from tests.lakehouse import rest_site
from tests.lakehouse.foreign_site import Site, a_site, expire, put, unset

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pyiceberg"),
]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with rest_site.site(tmp_path / "theirs", open=True) as theirs, a_site(tmp_path / "ours", monkeypatch) as made:
        made.settings = dataclasses.replace(
            made.settings, catalog="rest", catalog_properties=json.dumps({"uri": theirs.url})
        )
        yield made


def test_flushes_go_through_the_rest_endpoint_of_another_house(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    flushed = site.flush(shop)
    assert flushed is not None
    put(shop, frame(2, [entry(4, after={"id": 4, "price": 2.5})]))
    site.flush(shop)
    assert site.rows() == [1, 2, 3, 4]
    assert IcebergTable.objects.get().metadata_location == site.table().metadata_location
    assert "price" in site.table().schema().column_names
    assert not ForeignCommit.objects.exists()
    checks.foreign_catalog(site.settings)


@pytest.mark.parametrize(
    "point", [Failpoint.FOREIGN_ANNOUNCED, Failpoint.FOREIGN_APPENDING, Failpoint.FOREIGN_APPENDED]
)
def test_a_worker_dies_there_and_the_next_one_finishes_it(site: Site, point: Failpoint) -> None:
    shop = source(parent())
    put(shop, frame(1, [*run(1, 2, table="items"), *run(3, 4)]))
    with site.dying(point):
        site.flush(shop)
    put(shop, frame(2, run(5, 6)))
    while site.flush(shop):
        pass
    assert (site.rows("items"), site.rows()) == ([1, 2], [3, 4, 5, 6])
    assert set(Flush.objects.values_list("state", flat=True)) == {"committed"}


@pytest.mark.parametrize("is_expired", [False, True])
def test_a_worker_that_sleeps_before_its_append_loses(site: Site, is_expired: bool) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))

    def be_overtaken() -> None:
        site.later()
        for sequence, first in ((2, 4), (3, 6)):
            assert site.flush(shop, site.worker("worker-2")) is not None
            put(shop, frame(sequence, run(first, first + 1)))
        assert site.flush(shop, site.worker("worker-2")) is not None
        if is_expired:
            expire(site)

    site.meanwhile(drafts, "append", be_overtaken)
    with pytest.raises(LeaseLost):
        site.flush(shop)
    assert site.rows() == [1, 2, 3, 4, 5, 6, 7]


def test_an_answer_that_got_lost_on_its_way_is_looked_up(site: Site) -> None:
    shop, worker = source(parent()), site.worker()
    put(shop, frame(1, run(1, 3)))
    session = worker.lake.catalog._session  # type: ignore[attr-defined]
    usual, lost = session.post, []

    def lose_the_answer(url: str, **request: Any) -> Any:
        answer = usual(url, **request)
        if url.endswith("/tables/orders"):
            lost.append(answer.status_code)
            raise ReadTimeout("no answer")
        return answer

    site.monkeypatch.setattr(session, "post", lose_the_answer)
    assert site.flush(shop, worker) is not None
    assert (lost, site.rows()) == ([200], [1, 2, 3])


def test_a_flush_whose_snapshot_expired_is_known_by_the_property_and_without_it_asked_for(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    with site.dying(Failpoint.FOREIGN_APPENDED):
        site.flush(shop)
    expire(site)
    assert site.flush(shop) is not None
    put(shop, frame(2, run(4, 5)))
    with site.dying(Failpoint.FOREIGN_APPENDED):
        site.flush(shop)
    expire(site)
    unset(site, intents.marker(shop.parent_id, is_recovery=False))
    with pytest.raises(OutcomeUnknown, match="no marker of ours"):
        site.flush(shop)
    assert site.rows() == [1, 2, 3, 4, 5]
