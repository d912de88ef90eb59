"""Upkeep asks a bucket for several files at a time, for each once, and has no more of them in memory than it may."""

from __future__ import annotations

import uuid

import pytest

from lakehouse.catalog import fetching
from lakehouse.catalog.retention import Retention
from lakehouse.catalog.storage import from_settings
from lakehouse.catalog.upkeep import compaction, expiry
from lakehouse.catalog.upkeep.compaction import Compacted, Terms
from lakehouse.conf import Settings
from lakehouse.errors import DamagedTable, StoreUnavailable
from lakehouse.torture.flaky_store import Answer
from tests.lakehouse.counted_s3 import Counting
from tests.lakehouse.upkeep_site import Lake

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.once,
]
ALL = Terms(target_bytes=2**27, files_min=2, is_tiered=False)
COMMITS = 6


@pytest.fixture
def lake(s3: Counting, settings_of_s3: Settings) -> Lake:
    """Some commits, and a worker who has made none of them."""
    Lake(settings_of_s3).commit(COMMITS)
    s3.asked.clear()
    return Lake(settings_of_s3)


def compact(lake: Lake) -> Compacted:
    with lake.keeper() as keeper:
        return compaction.compact(keeper, ALL)


def test_a_merge_asks_for_each_small_file_and_each_manifest_once(s3: Counting, lake: Lake) -> None:
    assert compact(lake).old == COMMITS
    asked = {kind: s3.asked.count(kind) for kind in s3.asked}
    assert (asked["GET parquet"], asked["HEAD parquet"]) == (COMMITS, COMMITS)
    assert (asked["GET avro"], asked["HEAD avro"]) == (COMMITS + 1, COMMITS + 1), "a list and its manifests"
    assert (asked["GET metadata.json"], asked["HEAD metadata.json"]) == (1, 1)
    assert lake.rows().total() == 2 * COMMITS


@pytest.mark.parametrize("ending", [".parquet", "-m0.avro"])
def test_a_merge_reads_several_files_at_a_time(s3: Counting, lake: Lake, ending: str) -> None:
    s3.together("GET", ending)
    assert compact(lake).old == COMMITS


def test_large_files_are_read_piece_by_piece_as_before(
    s3: Counting, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "WHOLE_BYTES", 100)
    assert compact(lake).old == COMMITS
    assert s3.asked.count("GET parquet") > COMMITS
    assert lake.rows().total() == 2 * COMMITS


def test_a_file_that_is_larger_than_its_manifest_says_is_not_fetched_whole(s3: Counting, lake: Lake) -> None:
    path = f"{lake.settings.resolved_warehouse}/{uuid.uuid4()}.parquet"
    with lake.catalog._files.new_output(path).create() as stream:
        stream.write(bytes(fetching.WHOLE_BYTES + 1))
    s3.asked.clear()
    [(_, fetched)] = fetching.each(lake.catalog._files, [path], str, lambda _: 1)
    assert len(fetched()) == fetching.WHOLE_BYTES + 1
    assert "GET parquet" not in s3.asked


def test_no_more_is_fetched_ahead_than_there_is_room_for(
    s3: Counting, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "AHEAD_BYTES", 2 * fetching.FLOOR_BYTES)
    paths = [file["file_path"] for file in lake.table().inspect.files().to_pylist()]
    s3.asked.clear()
    for at, (_, fetched) in enumerate(fetching.each(lake.catalog._files, paths, str, lambda _: 1)):
        fetched()
        assert s3.asked.count("HEAD parquet") <= at + 3
    assert s3.asked.count("GET parquet") == COMMITS


def test_a_store_that_is_away_is_asked_for_a_few_files_of_a_merge_and_not_for_all(s3: Counting, lake: Lake) -> None:
    refused, forward = [], s3.forward

    def refuse(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if not path.endswith(".parquet"):
            return forward(method, path, headers, body)
        refused.append(path)
        return 403, {}, b""

    Lake(lake.settings).commit(14)
    s3.forward = refuse  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable, match="ACCESS_DENIED"):
        compact(lake)
    assert 1 <= len(refused) < COMMITS + 14


def test_old_files_are_deleted_by_a_request_for_the_data_one_for_manifests_and_one_for_lists(
    s3: Counting, lake: Lake
) -> None:
    compact(lake)
    rows = lake.rows()
    with lake.keeper() as keeper:
        expiry.forget(keeper, Retention(age_ms=0, newest=1, most=1))
        s3.asked.clear()
        assert expiry.delete(keeper, before_ms=2**62).deleted > 2 * COMMITS
    assert [kind for kind in s3.asked if kind.startswith(("POST", "DELETE"))] == ["POST "] * 3
    assert lake.rows() == rows
    assert lake.files() == lake.reached()


def test_a_manifest_that_is_torn_is_told_as_before(lake: Lake) -> None:
    table = lake.table()
    snapshot = table.current_snapshot()
    assert snapshot is not None
    torn = snapshot.manifests(table.io)[2].manifest_path
    with from_settings(lake.settings)._files.new_output(torn).create() as stream:
        stream.write(b"Obj")
    with pytest.raises(DamagedTable):
        compact(Lake(lake.settings))
