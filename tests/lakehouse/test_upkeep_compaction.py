"""Many small files become few, with the same rows, while flushes go on."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.db import connection
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation

from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.lakes import chosen
from lakehouse.catalog.retention import Retention
from lakehouse.catalog.upkeep import compaction, expiry, rewriting, rounds, runs
from lakehouse.catalog.upkeep.compaction import Compacted, Terms
from lakehouse.catalog.upkeep.lease import Keeper
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict, LeaseLost
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.query import verify
from lakehouse.query.verify import Verdict, Wanted
from tests.builders import NOW_MS, frame, parent, run, source
from tests.lakehouse.upkeep_site import Lake

pytestmark = pytest.mark.django_db(transaction=True)

ALL = Terms(target_bytes=2**27, files_min=2, is_tiered=False)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(Settings(data_dir=tmp_path))


def compact(lake: Lake, terms: Terms = ALL) -> Compacted:
    with lake.keeper() as keeper:
        return compaction.compact(keeper, terms)


def data_files(table: Table) -> list[dict[str, Any]]:
    return table.inspect.files().to_pylist()


def test_small_files_of_each_day_become_one_with_the_same_rows(lake_settings: Settings) -> None:
    lake = Lake(lake_settings)
    lake.commit(5, each=4, days=2)
    rows = lake.rows()
    done = compact(lake)
    assert (done.old, done.new, done.rows) == (10, 2, 20)
    assert lake.rows() == rows
    table = lake.table()
    assert len({file["partition"]["_ts_day"] for file in data_files(table)}) == 2
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.operation is Operation.REPLACE
    assert snapshot.summary["total-records"] == "20"
    assert snapshot.summary["total-data-files"] == "2"
    assert "evodb.flush-id" not in snapshot.summary.additional_properties
    lake.commit(2, days=2)
    assert lake.rows().total() == 24
    assert not compact(lake, Terms(target_bytes=2**27, files_min=8))


def test_many_days_of_little_are_merged_in_one_commit_that_reads_what_names_them_once(lake: Lake) -> None:
    lake.commit(3, each=40, days=40)
    rows, version = lake.rows(), lake.row().version
    done = compact(lake)
    assert (done.old, done.new, done.rows) == (120, 40, 120)
    assert lake.rows() == rows
    assert lake.row().version == version + 1


def test_a_merge_of_many_days_ends_when_its_time_is_over_and_keeps_what_it_has_done(lake: Lake) -> None:
    lake.commit(2, each=5, days=5)
    rows, looks = lake.rows(), iter([False, False, True])
    with lake.keeper() as keeper:
        done = compaction.compact(keeper, ALL, until=lambda: next(looks, True))
    assert (done.old, done.new) == (6, 3)
    assert lake.rows() == rows


def test_rows_are_sorted_by_their_id(lake: Lake) -> None:
    lake.commit(4, each=5)
    compact(lake)
    [file] = data_files(lake.table())
    ids = pq.read_table(file["file_path"])["_row_id"].to_pylist()
    assert ids == sorted(ids)
    assert len(set(ids)) == 20


def test_after_it_the_small_files_can_be_deleted(lake: Lake) -> None:
    lake.commit(5)
    rows = lake.rows()
    compact(lake)
    with lake.keeper() as keeper:
        expiry.forget(keeper, Retention(age_ms=0, newest=1, most=1))
        expiry.delete(keeper, before_ms=2**62)
    assert lake.rows() == rows
    assert lake.files() == lake.reached()
    assert len([name for name in lake.files() if name.endswith(".parquet")]) == 1


def test_files_written_before_a_column_was_there_lack_it_after_it_too(lake: Lake) -> None:
    lake.commit(2)
    lake.commit(2, price=pa.array([1.5, None]))
    lake.commit(1, **{"a b.c": pa.array(["x", "y"])})
    rows = lake.rows()
    assert compact(lake).new == 1
    assert lake.rows() == rows
    [file] = data_files(lake.table())
    assert dict(file["null_value_counts"])[6] == 8


def test_memory_is_bounded_by_what_is_held_to_sort_and_to_write(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "RUN_BYTES", 30_000)
    monkeypatch.setattr(runs.in_order, "__kwdefaults__", {"run_bytes": 30_000})
    monkeypatch.setattr(rewriting, "READ_BYTES", 2_500)
    monkeypatch.setattr(rewriting, "ROW_GROUP_BYTES", 40_000)
    held: list[int] = []
    sort = runs._sorted
    monkeypatch.setattr(
        runs, "_sorted", lambda batches, keys: held.append(sum(b.nbytes for b in batches)) or sort(batches, keys)
    )
    lake.commit(4, each=500, text=pa.array(["x" * 100] * 500))
    rows = lake.rows()
    compact(lake)
    assert lake.rows() == rows
    assert len(held) > 5
    assert max(held) < 60_000
    [file] = data_files(lake.table())
    assert pq.ParquetFile(file["file_path"]).num_row_groups > 5


def test_documents_of_ten_kilobytes_are_merged_in_little_memory(lake: Lake) -> None:
    """Held are a run to sort and a megabyte or two of each column; a page as large as a row group would be far more."""
    dice = random.Random(0)
    texts = pa.array([dice.randbytes(5_000).hex() for _ in range(3200)])
    lake.commit(4, each=3200, text=texts)
    usual = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(counting)
    try:
        assert compact(lake).old == 4
    finally:
        pa.set_memory_pool(usual)
    assert lake.rows(columns="_seq").total() == 4 * 3200
    assert counting.max_memory() < 72 * 2**20


def test_a_file_ends_where_the_target_is_reached(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "ROW_GROUP_BYTES", 20_000)
    text = pa.array([f"{number * 7919:050}" for number in range(1000)])
    lake.commit(4, each=1000, text=text)
    table = lake.table()
    [size, *_] = table.inspect.files()["file_size_in_bytes"].to_pylist()
    old = [entry.data_file for one in compaction.manifests_of(table) for entry in one.fetch_manifest_entry(table.io)]
    new = list(rewriting.rewrite(table.metadata, old, table.io, target_bytes=size))
    assert len(new) > 2
    assert max(file.file_size_in_bytes for file in new) < 2 * size
    assert sum(file.record_count for file in new) == 4000


def test_a_flush_in_the_middle_wins_and_nothing_is_lost(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.commit(4)
    commit = Keeper.commit
    seen = []

    def meet(*args: Any, **keywords: Any) -> None:
        if not seen:
            lake.commit()
        seen.append(1)
        commit(*args, **keywords)

    monkeypatch.setattr(Keeper, "commit", meet)
    assert compact(lake).old == 4
    assert len(seen) == 2
    assert lake.rows().total() == 10
    assert len(data_files(lake.table())) == 2


def test_who_loses_each_time_gives_up_and_leaves_no_file(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.commit(4)
    with lake.a_flush_is_always_faster(monkeypatch), pytest.raises(CommitConflict):
        compact(lake, dataclasses.replace(ALL, attempts_max=3))
    assert lake.rows().total() == 14
    assert not any("compacted" in name for name in lake.files())
    assert compact(lake).old == 7


def test_files_another_engine_replaced_meanwhile_are_not_brought_back(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.commit(4)
    rewrite = rewriting.rewrite

    def meet(*args: Any, **keywords: Any) -> Any:
        table = lake.table()
        table.overwrite(table.scan().to_arrow().slice(0, 3))
        return rewrite(*args, **keywords)

    monkeypatch.setattr(rewriting, "rewrite", meet)
    with pytest.raises(CommitConflict, match="replaced by somebody else"):
        compact(lake)
    assert lake.rows().total() == 3
    assert not any("compacted" in name for name in lake.files())


def test_who_lost_the_lease_meanwhile_commits_nothing(lake: Lake) -> None:
    lake.commit(4)
    with lake.keeper() as late:
        with lake.keeper(hours=1):
            pass
        with pytest.raises(LeaseLost):
            compaction.compact(late, ALL)
    assert len(data_files(lake.table())) == 4


class Death(Exception):
    """As if the process had died there."""


STEPS: dict[str, tuple[Any, str]] = {
    "while rows are read": (rewriting, "read"),
    "while rows are written": (rewriting.Writer, "_place"),
    "before files are on the disk": (DurableFileIO, "settle"),
    "before the pointer moves": (Keeper, "commit"),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_death_at_any_step_changes_nothing_that_can_be_seen(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    lake.commit(4)
    rows, location = lake.rows(), lake.table().metadata_location

    def die(*_: object, **__: object) -> None:
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(*STEPS[step], die)
        with pytest.raises(Death):
            compact(lake)
    assert (lake.rows(), lake.table().metadata_location) == (rows, location)
    assert compact(lake).old == 4
    assert lake.rows() == rows


def test_rows_that_get_lost_on_the_way_stop_it(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.commit(4)
    read = rewriting.read
    monkeypatch.setattr(rewriting, "read", lambda *args: (batch.slice(1) for batch in read(*args)))
    with pytest.raises(AssertionError, match=r"4 files of .* have 8 rows, 4 were read"):
        compact(lake)
    assert lake.rows().total() == 8
    assert not any("compacted" in name for name in lake.files())


def test_a_table_with_delete_files_is_left_to_who_wrote_them(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.commit(4)
    deletes = type("Manifest", (), {"content": "deletes"})()
    manifests = compaction.manifests_of
    monkeypatch.setattr(compaction, "manifests_of", lambda table: [*manifests(table), deletes])
    assert not compact(lake)


def test_manifests_become_fewer(lake: Lake) -> None:
    lake.commit(6)
    rows = lake.rows()
    with lake.keeper() as keeper:
        assert compaction.merge_manifests(keeper, count_min=7) == 0
        assert compaction.merge_manifests(keeper) == 5
        assert compaction.merge_manifests(keeper) == 0
    assert lake.rows() == rows
    assert compact(lake).old == 6
    lake.commit(2)
    assert lake.rows().total() == 16


def test_flushes_and_compaction_at_the_same_time_keep_every_row(lake: Lake) -> None:
    lake.commit(3)
    stop, failures = threading.Event(), list[BaseException]()

    def keep_compacting() -> None:
        try:
            while not stop.is_set():
                try:
                    compact(lake)
                except CommitConflict:
                    continue
        except BaseException as exc:
            failures.append(exc)
        finally:
            connection.close()

    thread = threading.Thread(target=keep_compacting)
    thread.start()
    try:
        for _ in range(12):
            patiently(lake.commit)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert sorted(row[3] for row in lake.rows().elements()) == sorted({row[3] for row in lake.rows()})
    assert lake.rows().total() == lake.table().scan().count() >= 30


def patiently(commit: Callable[[], None]) -> None:
    """As a flush does: who lost stages anew."""
    while True:
        try:
            return commit()
        except CommitConflict:
            continue


def test_the_sums_of_the_journal_agree_after_compaction_and_expiry(lake: Lake) -> None:
    flusher = Flusher("worker-1", lake.settings, chosen(lake.settings), lambda: NOW_MS)
    shop = source(parent())
    for number in range(1, 10, 3):
        accept([(shop, frame(number, run(number, number + 2)))], now_ms=NOW_MS)
        flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    with lake.keeper(name="orders") as keeper:
        assert compaction.compact(keeper, ALL).rows == 9
        expiry.forget(keeper, Retention(age_ms=0, newest=1, most=1))
        expiry.delete(keeper, before_ms=2**62)
    [report] = verify.verify(lake.settings, Wanted())
    assert [one.verdict for one in report.tables] == [Verdict.GREEN]
    assert report.tables[0].lake.entries == 9


def test_the_beat_compacts_by_tiers_when_enough_was_written(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(lake.settings, compact_files_min=4)

    def go() -> int:
        return rounds.go(lake.catalog, settings, now_ms=now_ms, until=lambda: False)

    lake.commit(4)
    go()
    assert len(data_files(lake.table())) == 4
    lake.commit(1)
    go()
    assert len(data_files(lake.table())) == 1
    lake.commit(2)
    go()
    assert len(data_files(lake.table())) == 3
    assert lake.rows().total() == 14


def test_a_table_of_another_shape_is_compacted_too(lake: Lake) -> None:
    """Not made by a flush: nested columns, none of ours, and partitioned by a text or not at all."""
    lake.catalog.create_namespace("lake")
    deep = pa.array([{"a": [1, 2], "b": {"x": "y"}}, None])
    rows = pa.table({"kind": ["a/b c", None], "deep": deep, "number": pa.array([1, 2], pa.int32())})
    for name, is_partitioned in (("flights", False), ("parts", True)):
        table = lake.catalog.create_table(f"lake.{name}", rows.schema)
        if is_partitioned:
            with table.update_spec() as spec:
                spec.add_identity("kind")
        for _ in range(3):
            table.append(rows)
        before = lake.rows(name, "kind, number, deep::VARCHAR")
        with lake.keeper(name=name) as keeper:
            done = compaction.compact(keeper, ALL)
        assert (done.old, done.new) == ((6, 2) if is_partitioned else (3, 1))
        assert lake.rows(name, "kind, number, deep::VARCHAR") == before
        assert lake.table(name).scan(row_filter="kind = 'a/b c'").to_arrow()["number"].to_pylist() == [1, 1, 1]
