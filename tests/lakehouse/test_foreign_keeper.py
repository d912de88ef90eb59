"""Files exchanged in a catalog that is not ours: promotions and merges die, meet flushes and are lied to."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException

from lakehouse.catalog import storage
from lakehouse.clock import now_ms
from lakehouse.errors import LakehouseError, StoreUnavailable
from lakehouse.journal.accept import Source
from lakehouse.models import DriftField, Parent, TableSchema
from lakehouse.promotion import Promoter
from lakehouse.query import duck
from lakehouse.query.verify import Verdict, Wanted, verify
from rpc.failpoints import Failpoint
from tests.builders import entry, frame, parent, source
from tests.lakehouse.foreign_site import Site, a_site, put

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with a_site(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def shop() -> Source:
    home = parent()
    TableSchema.objects.create(parent=home, table="orders", mode="inbox", fields={"id": "long"})
    return source(home)


def send(site: Site, shop: Source, number: int, after: Any) -> None:
    put(shop, frame(number, [entry(number, after=after)]))
    assert site.flush(shop) is not None


def promote(site: Site, key: str = "new", kind: str = "double") -> str:
    promoter = Promoter(storage.from_settings(site.settings), site.settings, now_ms, lambda ms: None)
    return str(promoter.promote(Parent.objects.get(), "orders", key, kind))


def rows(site: Site, *names: str) -> list[tuple[Any, ...]]:
    with duck.connect(site.settings) as reader:
        place = duck.scan(site.table().metadata_location)
        return reader.execute(f"SELECT {', '.join(names)} FROM {place} ORDER BY _seq").fetchall()


def rest(site: Site) -> list[Any]:
    return [None if text is None else json.loads(text) for (text,) in rows(site, "_rest")]


def assert_green(site: Site) -> None:
    [report] = verify(site.settings, Wanted())
    assert [one.verdict for one in report.tables] == [Verdict.GREEN]


def data_files(site: Site) -> int:
    return len(list(site.table().scan().plan_files()))


def lie(site: Site, error: Exception) -> None:
    """Whoever opens the catalog now hears this of a commit that was made, once."""
    catalog = site.lake().catalog
    usual, told = catalog.commit_table, []

    def commit(table: Any, requirements: Any, updates: Any) -> Any:
        answer = usual(table, requirements, updates)
        if not told and any(one.action == "add-snapshot" for one in updates):
            told.append(1)
            raise error
        return answer

    site.monkeypatch.setattr(catalog, "commit_table", commit)
    site.monkeypatch.setattr(storage, "foreign", lambda settings: catalog)


def test_a_key_becomes_a_column_with_what_was_stored_already(site: Site, shop: Source) -> None:
    send(site, shop, 1, {"id": 1, "new": 1.5, "other": "x"})
    send(site, shop, 2, {"id": 2, "new": "soon"})
    send(site, shop, 3, {"id": 3})
    assert promote(site) == "1 values moved from _rest in 1 files; 1 values do not fit and stay in _rest"
    assert rows(site, "id", "new") == [(1, 1.5), (2, None), (3, None)]
    assert rest(site) == [{"other": "x"}, {"new": "soon"}, None]
    send(site, shop, 4, {"id": 4, "new": 7})
    assert rows(site, "new")[-1] == (7.0,)
    assert DriftField.objects.get(field="new").values == 1
    assert_green(site)
    assert promote(site) == "0 values moved from _rest in 0 files; 1 values do not fit and stay in _rest"


def test_a_key_that_cannot_be_a_column_or_a_table_that_is_not_there_is_told(site: Site, shop: Source) -> None:
    with pytest.raises(LakehouseError, match=r"there is no table lake\.orders; let its first rows be flushed"):
        promote(site)
    send(site, shop, 1, {"id": 1, "ID": 5})
    with pytest.raises(LakehouseError, match="cannot be a column"):
        promote(site, "ID", "long")


@pytest.mark.parametrize("point", [Failpoint.FOREIGN_APPENDING, Failpoint.FOREIGN_APPENDED])
@pytest.mark.parametrize("visit", [1, 2])
def test_whoever_promotes_dies_there_and_does_the_rest_when_it_is_typed_again(
    site: Site, shop: Source, point: Failpoint, visit: int
) -> None:
    send(site, shop, 1, {"id": 1, "new": 1.5})
    send(site, shop, 2, {"id": 2, "new": 2.5})
    with site.dying(point, visit):
        promote(site)
    send(site, shop, 3, {"id": 3, "new": 3.5})
    promote(site)
    assert rows(site, "id", "new") == [(1, 1.5), (2, 2.5), (3, 3.5)]
    assert rest(site) == [None, None, None]
    assert_green(site)


@pytest.mark.parametrize("error", [CommitFailedException("conflict"), CommitStateUnknownException("no answer")])
def test_a_catalog_that_lies_about_a_commit_it_made_costs_no_row(site: Site, shop: Source, error: Exception) -> None:
    send(site, shop, 1, {"id": 1, "new": 1.5})
    lie(site, error)
    assert promote(site) == "1 values moved from _rest in 1 files"
    assert rows(site, "id", "new") == [(1, 1.5)]
    assert_green(site)


def test_a_catalog_that_goes_away_before_a_commit_leaves_all_as_it_was(site: Site, shop: Source) -> None:
    send(site, shop, 1, {"id": 1, "new": 1.5})
    catalog = site.lake().catalog

    def away(*_: Any) -> Any:
        raise CommitStateUnknownException("no answer")

    with site.monkeypatch.context() as patch:
        patch.setattr(catalog, "commit_table", away)
        patch.setattr(storage, "foreign", lambda settings: catalog)
        with pytest.raises(StoreUnavailable, match="was not taken, or nobody said so"):
            promote(site)
    assert rest(site) == [{"new": 1.5}]
    promote(site)
    assert (rest(site), rows(site, "new")) == ([None], [(1.5,)])


def test_a_flush_that_is_faster_makes_an_exchange_begin_anew(site: Site, shop: Source) -> None:
    send(site, shop, 1, {"id": 1, "new": 1.5})
    catalog = site.lake().catalog
    usual, sent = catalog.commit_table, []

    def meanwhile(table: Any, requirements: Any, updates: Any) -> Any:
        if not sent and any(one.action == "add-snapshot" for one in updates):
            sent.append(1)
            send(site, shop, 2, {"id": 2, "new": 2.5})
        return usual(table, requirements, updates)

    site.monkeypatch.setattr(catalog, "commit_table", meanwhile)
    site.monkeypatch.setattr(storage, "foreign", lambda settings: catalog)
    promote(site)
    assert rows(site, "id", "new") == [(1, 1.5), (2, 2.5)]
    assert_green(site)


def manage(site: Site, *args: str) -> str:
    said = io.StringIO()
    site.monkeypatch.setattr(django_settings, "EVODB", site.settings)
    call_command("lake", *args, stdout=said, stderr=said)
    return said.getvalue()


def test_small_files_are_merged_by_command(site: Site, shop: Source) -> None:
    for number in range(1, 5):
        send(site, shop, number, {"id": number})
    assert data_files(site) == 4
    assert manage(site, "compact", "--all") == ("lake.orders: 4 files became 1 with 4 rows; 1 manifests merged away\n")
    assert (data_files(site), site.rows()) == (1, [1, 2, 3, 4])
    send(site, shop, 5, {"id": 5})
    assert_green(site)
    with pytest.raises(CommandError, match=r"there is no table 'lake\.x'; tables are lake\.orders"):
        manage(site, "compact", "--table", "lake.x")


@pytest.mark.parametrize("action", ["upkeep", "expire", "orphans"])
def test_what_would_delete_files_of_somebody_else_is_refused(site: Site, action: str) -> None:
    with pytest.raises(CommandError, match="ask that one; only compact and stats work here"):
        manage(site, action)
