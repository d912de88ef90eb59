"""Flushes into a catalog that is not ours: workers die, sleep and meet, catalogs lie; rows are there once."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.table import CommitTableResponse
from pyiceberg.types import StringType
from requests.exceptions import ReadTimeout

from lakehouse.catalog import drafts, foreign_tables, intents
from lakehouse.catalog.lakes import chosen
from lakehouse.errors import CommitConflict, LeaseLost, OutcomeUnknown, StoreUnavailable
from lakehouse.flush import breaker_row, shred
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import Source
from lakehouse.models import (
    Batch,
    BatchPayload,
    FallbackBatch,
    Flush,
    FlushTable,
    ForeignCommit,
    IcebergTable,
    Parent,
    StoreBreaker,
)
from lakehouse.query.verify import Verdict, Wanted, verify
from rpc.failpoints import Failpoint
from tests.builders import entry, frame, parent, run, source
from tests.lakehouse.foreign_site import Site, a_site, expire, put, unset

pytestmark = pytest.mark.django_db(transaction=True)

TABLES = ("clients", "items", "orders")
"""In the order in which a flush appends to them."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with a_site(tmp_path, monkeypatch) as made:
        yield made


def of_three_tables(sequence: int, first: int) -> Any:
    return frame(sequence, [entry(first + number, table=name) for number, name in enumerate(TABLES)])


def everything(site: Site) -> list[int]:
    return sorted(number for name in TABLES for number in site.rows(name))


def assert_nothing_is_open() -> None:
    assert not ForeignCommit.objects.exists()
    assert not Flush.objects.filter(state="open").exists()
    assert not BatchPayload.objects.exists()
    assert set(Batch.objects.values_list("state", flat=True)) == {"persisted"}
    home = Parent.objects.first()
    assert home is not None
    assert (home.pending_batches, home.pending_entries, home.pending_bytes) == (0, 0, 0)


def is_green(site: Site) -> bool:
    found = [one.verdict for report in verify(site.settings, Wanted()) for one in report.tables]
    return bool(found) and set(found) == {Verdict.GREEN}


def test_rows_are_in_the_foreign_table_with_the_stamp_of_their_flush(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    flushed = site.flush(shop)
    assert flushed is not None
    assert (flushed.commit_number, flushed.entries, site.rows()) == (1, 3, [1, 2, 3])
    table, marker = site.table(), intents.marker(shop.parent_id, is_recovery=False)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.additional_properties["evodb.flush-id"] == str(flushed.flush_id)
    assert table.properties[marker] == snapshot.summary.additional_properties[marker]
    assert table.properties["commit.retry.num-retries"] == "0"
    said = FlushTable.objects.get()
    assert (said.rows, said.snapshot_id, said.metadata_location) == (3, snapshot.snapshot_id, table.metadata_location)
    assert_nothing_is_open()
    assert not IcebergTable.objects.exists()
    assert is_green(site)


STEPS = [
    (Failpoint.METADATA_WRITTEN, 1),
    (Failpoint.FOREIGN_ANNOUNCED, 1),
    *((Failpoint.FOREIGN_APPENDING, table) for table in (1, 2, 3)),
    *((Failpoint.FOREIGN_APPENDED, table) for table in (1, 2, 3)),
    (Failpoint.MARKED, 1),
]


@pytest.mark.parametrize(("point", "visit"), STEPS)
def test_a_worker_dies_there_and_the_next_one_finishes_it(site: Site, point: Failpoint, visit: int) -> None:
    shop = source(parent())
    put(shop, of_three_tables(1, 1))
    with site.dying(point, visit):
        site.flush(shop)
    put(shop, of_three_tables(2, 4))
    while site.flush(shop):
        pass
    assert everything(site) == [1, 2, 3, 4, 5, 6]
    assert_nothing_is_open()
    assert Parent.objects.get().commit_number in (1, 2)


def test_what_came_after_a_death_is_no_part_of_the_flush_in_doubt(site: Site) -> None:
    shop = source(parent())
    put(shop, of_three_tables(1, 1))
    with site.dying(Failpoint.FOREIGN_APPENDED, 2):
        site.flush(shop)
    doubtful = Flush.objects.get()
    put(shop, of_three_tables(2, 4))
    first, second = site.flush(shop), site.flush(shop)
    assert first is not None
    assert second is not None
    assert is_green(site)
    assert (first.flush_id, first.batches) == (doubtful.pk, 1)
    assert (second.batches, second.commit_number) == (1, 2)
    assert list(Batch.objects.order_by("pk").values_list("flush", flat=True)) == [first.flush_id, second.flush_id]
    assert len(site.table("clients").snapshots()) == 2


def test_a_flush_in_doubt_is_finished_in_the_namespace_it_began_in(site: Site) -> None:
    shop = source(parent())
    put(shop, of_three_tables(1, 1))
    with site.dying(Failpoint.FOREIGN_APPENDED, 1):
        site.flush(shop)
    Parent.objects.update(namespace="elsewhere")
    site.flush(shop)
    assert everything(site) == [1, 2, 3]


@pytest.mark.parametrize(
    ("owner", "name", "visit"),
    [
        (foreign_tables, "find_or_create", 1),
        (intents, "announce", 1),
        (intents, "check_open", 1),
        (drafts, "append", 1),
        (intents, "note_landed", 1),
        (drafts, "append", 2),
        (intents, "forget", 1),
    ],
)
def test_a_worker_that_sleeps_past_its_lease_loses_and_every_row_is_there_once(
    site: Site, owner: Any, name: str, visit: int
) -> None:
    shop = source(parent())
    put(shop, of_three_tables(1, 1))
    rescuer = site.worker("worker-2")

    def be_overtaken() -> None:
        site.later()
        assert site.flush(shop, rescuer) is not None
        put(shop, of_three_tables(2, 4))
        assert site.flush(shop, rescuer) is not None

    if name == "forget":  # within the transaction that marks, where nobody else gets in
        site.meanwhile(owner, name, site.later, visit=visit)
        assert site.flush(shop) is not None
        put(shop, of_three_tables(2, 4))
        site.flush(shop, rescuer)
    else:
        site.meanwhile(owner, name, be_overtaken, visit=visit)
        with pytest.raises(LeaseLost):
            site.flush(shop)
    assert everything(site) == [1, 2, 3, 4, 5, 6]
    assert_nothing_is_open()
    assert Parent.objects.get().commit_number == 2


def test_a_late_worker_loses_also_when_the_snapshots_of_its_rescuer_have_expired(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))

    def be_overtaken_and_forgotten() -> None:
        site.later()
        assert site.flush(shop, site.worker("worker-2")) is not None
        put(shop, frame(2, run(4, 5)))
        assert site.flush(shop, site.worker("worker-2")) is not None
        expire(site)

    site.meanwhile(drafts, "append", be_overtaken_and_forgotten)
    with pytest.raises(LeaseLost):
        site.flush(shop)
    assert site.rows() == [1, 2, 3, 4, 5]


class Answering:
    """A catalog between us and the real one that answers a commit as it was told, and may be late with it."""

    def __init__(self, site: Site, worker: Flusher, *answers: Exception | None, lands: bool = True) -> None:
        self.real = worker.lake.catalog  # type: ignore[attr-defined]
        self.usual = self.real.commit_table
        self.answers = list(answers)
        self.lands = lands
        self.sent: list[Any] = []
        site.monkeypatch.setattr(self.real, "commit_table", self.commit)

    def commit(self, *request: Any) -> Any:
        self.sent.append(request)
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            return self.usual(*request)
        if self.lands:
            self.usual(*request)
        raise answer


def unanswered() -> list[Exception]:
    return [
        ReadTimeout("no answer within 30 s"),
        CommitStateUnknownException("502"),
        CommitFailedException("a transport that tried twice"),
        ValueError("an answer nobody can read"),
    ]


@pytest.mark.parametrize("answer", unanswered(), ids=lambda answer: type(answer).__name__)
def test_a_commit_that_landed_without_saying_so_is_not_made_again(site: Site, answer: Exception) -> None:
    shop, worker = source(parent()), site.worker()
    put(shop, frame(1, run(1, 3)))
    catalog = Answering(site, worker, answer)
    assert site.flush(shop, worker) is not None
    assert (site.rows(), len(catalog.sent)) == ([1, 2, 3], 1)
    assert_nothing_is_open()


@pytest.mark.parametrize("answer", unanswered(), ids=lambda answer: type(answer).__name__)
def test_a_commit_that_did_not_land_is_made_again(site: Site, answer: Exception) -> None:
    shop, worker = source(parent()), site.worker()
    put(shop, frame(1, run(1, 3)))
    Answering(site, worker, answer, lands=False)
    if isinstance(answer, CommitFailedException):
        assert site.flush(shop, worker) is not None
    else:
        with pytest.raises(StoreUnavailable, match="was not taken"):
            site.flush(shop, worker)
        doubtful = Flush.objects.get()
        assert (doubtful.state, "was not taken" in doubtful.error) == ("open", True)
        assert Parent.objects.get().lease_until_ms == 0
        flushed = site.flush(shop, worker)
        assert flushed is not None
        assert flushed.flush_id == doubtful.pk
    assert site.rows() == [1, 2, 3]
    assert_nothing_is_open()


def test_a_commit_the_catalog_comes_to_later_finds_that_it_was_made_already(site: Site) -> None:
    shop, worker = source(parent()), site.worker()
    put(shop, frame(1, run(1, 3)))
    catalog = Answering(site, worker, ReadTimeout("no answer"), lands=False)
    with pytest.raises(StoreUnavailable):
        site.flush(shop, worker)
    rescuer = site.worker("worker-2")
    site.meanwhile(drafts, "append", lambda: catalog.usual(*catalog.sent[0]))
    assert site.flush(shop, rescuer) is not None
    assert site.rows() == [1, 2, 3]
    with pytest.raises(CommitFailedException):
        catalog.usual(*catalog.sent[0])
    assert_nothing_is_open()


def test_a_table_that_is_overtaken_every_time_stays_in_doubt_and_is_finished_later(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    worker = site.worker(settings=dataclasses.replace(site.settings, commit_attempts_max=2))
    Answering(site, worker, *(CommitFailedException("overtaken") for _ in range(5)), lands=False)
    with pytest.raises(CommitConflict, match="overtaken 5 times"):
        site.flush(shop, worker)
    assert Flush.objects.get().state == "open"
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2, 3]


def test_two_parents_that_append_to_one_table_both_have_their_rows_there_once(site: Site) -> None:
    shop, rival = source(parent()), source(parent("rival"))
    put(shop, frame(1, run(1, 3)))
    put(rival, frame(1, run(11, 12)))
    site.meanwhile(drafts, "append", lambda: site.flush(rival, site.worker("worker-2")))
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2, 3, 11, 12]
    assert_nothing_is_open()


def test_two_flushes_that_create_one_table_both_have_their_rows_there_once(site: Site) -> None:
    shop, rival = source(parent()), source(parent("rival"))
    put(shop, frame(1, run(1, 3)))
    put(rival, frame(1, run(11, 12)))
    worker = site.worker()
    create = worker.lake.catalog  # type: ignore[attr-defined]
    site.meanwhile(create, "create_table", lambda: site.flush(rival, site.worker("worker-2")))
    assert site.flush(shop, worker) is not None
    assert site.rows() == [1, 2, 3, 11, 12]


def test_new_columns_of_ours_and_of_others_meet_in_one_table(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, [entry(1, after={"id": 1})]))
    site.flush(shop)
    put(shop, frame(2, [entry(2, after={"id": 2, "price": 2.5})]))

    def somebody_adds_a_column() -> None:
        with site.table().update_schema() as change:
            change.add_column("theirs", StringType())

    site.meanwhile(drafts, "append", somebody_adds_a_column)
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2]
    assert {"price", "theirs"} <= set(site.table().schema().column_names)


def test_a_table_whose_own_property_asks_for_retries_gets_no_rows_twice(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 1)))
    site.flush(shop)
    with site.table().transaction() as change:
        change.set_properties({"commit.retry.num-retries": "4"})
    put(shop, frame(2, run(2, 3)))

    def be_overtaken() -> None:
        site.later()
        assert site.flush(shop, site.worker("worker-2")) is not None

    site.meanwhile(drafts, "append", be_overtaken)
    with pytest.raises(LeaseLost):
        site.flush(shop)
    assert site.rows() == [1, 2, 3]


def dead_after_the_append(site: Site, shop: Source) -> None:
    put(shop, frame(1, run(1, 3)))
    with site.dying(Failpoint.FOREIGN_APPENDED):
        site.flush(shop)


def test_a_table_whose_property_names_code_runs_none_and_has_its_rows(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 2)))
    assert site.flush(shop) is not None
    with site.table().transaction() as change:
        change.set_properties({"py-io-impl": "tabnanny.FileIO"})
    put(shop, frame(2, run(3, 4)))
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2, 3, 4]
    assert "tabnanny" not in sys.modules
    assert is_green(site)


def test_a_snapshot_that_expired_is_still_known_by_the_property_of_its_table(site: Site) -> None:
    shop = source(parent())
    dead_after_the_append(site, shop)
    expire(site)
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2, 3]
    assert_nothing_is_open()


def test_history_that_expired_before_the_append_is_not_taken_for_it(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    site.flush(shop)
    put(shop, frame(2, run(4, 5)))
    with site.dying(Failpoint.FOREIGN_APPENDING):
        site.flush(shop)
    expire(site)
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("point", [Failpoint.FOREIGN_APPENDING, Failpoint.FOREIGN_APPENDED])
def test_no_marker_on_a_table_whose_history_expired_stops_and_asks(site: Site, point: Failpoint) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    with site.dying(point):
        site.flush(shop)
    expire(site)
    if point is Failpoint.FOREIGN_APPENDED:
        unset(site, intents.marker(shop.parent_id, is_recovery=False))
    before = site.rows()
    with pytest.raises(OutcomeUnknown, match=r"nobody can tell .* no marker of ours, .*manage.py in_doubt --flush"):
        site.flush(shop)
    home = Parent.objects.get()
    assert home.fuse_blown_ms is not None
    assert "lake.orders" in home.fuse_reason
    assert "no marker of ours" in Flush.objects.get(state="open").error
    assert site.flush(shop) is None
    assert site.rows() == before
    assert Batch.objects.get().state == "flushing"


def test_a_table_that_was_dropped_or_made_anew_stops_and_asks(site: Site) -> None:
    shop = source(parent())
    dead_after_the_append(site, shop)
    schema = site.table().schema()
    site.catalog.drop_table(("lake", "orders"))
    with pytest.raises(OutcomeUnknown, match=r"is gone|would have 0 rows"):
        site.flush(shop)
    site.catalog.create_table(("lake", "orders"), schema)
    Parent.objects.update(fuse_blown_ms=None)
    with pytest.raises(OutcomeUnknown, match="is another one"):
        site.flush(shop)


def test_a_version_that_reads_fewer_rows_does_not_finish_what_another_began(site: Site) -> None:
    shop = source(parent())
    dead_after_the_append(site, shop)
    usual = shred.typed_of

    def fewer(*args: Any) -> Any:
        found = usual(*args)
        return dataclasses.replace(found, tables={name: rows.slice(1) for name, rows in found.tables.items()})

    with site.monkeypatch.context() as patch:
        patch.setattr(shred, "typed_of", fewer)
        with pytest.raises(OutcomeUnknown, match="announced with 3 rows and would have 2"):
            site.flush(shop)
    Parent.objects.update(fuse_blown_ms=None)
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2, 3]


def test_a_journal_from_a_backup_stops_before_it_appends_again(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    flushed = site.flush(shop)
    assert flushed is not None
    marker = intents.marker(shop.parent_id, is_recovery=False)
    with site.table().transaction() as change:
        change.set_properties({marker: f"{flushed.flush_id + 7}-fromthefuture"})
    put(shop, frame(2, run(4, 5)))
    with pytest.raises(OutcomeUnknown, match=r"restored backup.*in_doubt --begin-anew"):
        site.flush(shop)
    assert Batch.objects.filter(state="pending").count() == 1
    intents.begin_anew()
    Parent.objects.update(fuse_blown_ms=None)
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2, 3, 4, 5]


def test_another_installation_with_the_same_numbers_is_somebody_else(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    marker = intents.marker(shop.parent_id, is_recovery=False)
    with site.dying(Failpoint.FOREIGN_APPENDED):
        site.flush(shop)
    with site.table().transaction() as change:
        change.set_properties({marker.replace(intents.installation(), "somebodyelse"): "999-aa"})
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2, 3]


def test_a_flush_in_doubt_waits_for_the_catalog_and_never_goes_to_the_fallback(site: Site) -> None:
    shop = source(parent())
    dead_after_the_append(site, shop)
    StoreBreaker.objects.create(pk=1, state="open", open_until_ms=site.now_ms + 1000)
    with pytest.raises(StoreUnavailable, match="in doubt"):
        site.flush(shop)
    assert not FallbackBatch.objects.exists()
    assert Flush.objects.get().state == "open"
    site.now_ms += 1000
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2, 3]


def test_a_catalog_that_cannot_be_opened_is_a_store_that_is_away(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    away = dataclasses.replace(
        site.settings, catalog="rest", catalog_properties='{"uri": "http://127.0.0.1:9"}', breaker_failures_max=1
    )
    site.settings, usual = away, site.settings
    worker = site.worker()
    with pytest.raises(StoreUnavailable, match="rest catalog of EVODB_CATALOG cannot be opened"):
        site.flush(shop, worker)
    assert breaker_row.read().state == "open"
    flushed = site.flush(shop, worker)
    assert flushed is not None
    assert flushed.commit_number is None
    site.settings = usual
    site.now_ms += usual.breaker_open_ms
    moving = site.recovery(shop.parent_id)
    moving.recover()
    assert (moving.rows, site.rows()) == (3, [1, 2, 3])


def test_our_own_catalog_does_not_finish_what_another_one_was_asked(site: Site) -> None:
    shop = source(parent())
    dead_after_the_append(site, shop)
    back = dataclasses.replace(site.settings, catalog="", catalog_properties="")
    own = Flusher("worker-2", back, chosen(back), lambda: site.now_ms)
    with pytest.raises(OutcomeUnknown, match="announced to another catalog; set EVODB_CATALOG"):
        own.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert not IcebergTable.objects.exists()


def test_a_parent_has_no_more_tables_than_its_bound_in_a_foreign_catalog_too(site: Site) -> None:
    shop = source(parent(tables_max=2))
    put(shop, of_three_tables(1, 1))
    flushed = site.flush(shop)
    assert flushed is not None
    assert (flushed.dead_letters, len(flushed.staged)) == (1, 2)


def test_verify_explains_rows_that_are_just_on_their_way(site: Site) -> None:
    shop = source(parent())
    put(shop, of_three_tables(1, 1))
    with site.dying(Failpoint.FOREIGN_APPENDED, 2):
        site.flush(shop)
    (report,) = verify(site.settings, Wanted())
    assert {one.verdict for one in report.tables} == {Verdict.EXPLAINED}
    assert "on their way" in report.tables[0].why[0]
    site.flush(shop)
    assert is_green(site)


def test_verify_sees_rows_that_somebody_took_out_of_a_foreign_table(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    site.flush(shop)
    site.table().delete("_seq = 2")
    (report,) = verify(site.settings, Wanted())
    assert report.is_red


@pytest.mark.parametrize(
    ("torn", "said"),
    [
        (
            lambda text: text.replace('"format-version":2', '"format-version":3,"next-row-id":0'),
            "its format is version 3",
        ),
        (lambda text: "{", "the catalog says nothing of lake.items that we understand"),
    ],
    ids=["version 3", "torn"],
)
def test_rows_of_a_table_of_theirs_that_takes_none_wait_and_the_others_go_on(site: Site, torn: Any, said: str) -> None:
    shop = source(parent())
    put(shop, of_three_tables(1, 1))
    site.flush(shop)
    metadata = Path(site.table("items").metadata_location)
    text = metadata.read_text()
    metadata.write_text(torn(text))
    put(shop, of_three_tables(2, 11))
    flushed = site.flush(shop)
    assert flushed is not None
    assert [one.table for one in flushed.staged] == ["clients", "orders"]
    site.recovery(shop.parent_id).recover()
    assert said in FallbackBatch.objects.get(table="items").last_error
    assert not StoreBreaker.objects.filter(failures__gt=0).exists()
    metadata.write_text(text)
    site.recovery(shop.parent_id).recover()
    assert everything(site) == [1, 2, 3, 11, 12, 13]
    assert_nothing_is_open()


def test_a_yes_of_a_catalog_that_did_nothing_is_not_believed(site: Site) -> None:
    """As when a proxy redirects the commit, and what was a POST asks for the table."""
    shop = source(parent())
    put(shop, frame(1, run(1, 2)))
    site.flush(shop)
    put(shop, frame(2, run(3, 4)))
    worker = site.worker()
    worker.lake.catalog.commit_table = lambda table, *_: CommitTableResponse(  # type: ignore[attr-defined]
        metadata=table.metadata, metadata_location=table.metadata_location
    )
    with pytest.raises(StoreUnavailable, match="was not taken"):
        site.flush(shop, worker)
    site.later()
    site.flush(shop)
    assert site.rows() == [1, 2, 3, 4]
    assert_nothing_is_open()
