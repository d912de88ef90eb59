"""Old snapshots are forgotten, and what only they reach is deleted: never more, and nothing stays for ever."""

from __future__ import annotations

import dataclasses
import io
import threading
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from pyiceberg.table.update import SetPropertiesUpdate

from lakehouse import tasks
from lakehouse.catalog import pointers
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.retention import Retention
from lakehouse.catalog.upkeep import expiry, lease
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.errors import CommitConflict, LeaseLost, StoreUnavailable
from lakehouse.models import ForgottenSnapshot, IcebergTable, Parent, TableUpkeep
from tests.lakehouse.upkeep_site import LEASE_MS, Lake

pytestmark = pytest.mark.django_db(transaction=True)

ONE = Retention(age_ms=0, newest=1, most=1)
FAR = 2**62


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(Settings(data_dir=tmp_path))


def replaced(lake: Lake) -> None:
    """All files of the table are written anew, so that the old ones are in old snapshots only."""
    table = lake.table()
    table.overwrite(table.scan().to_arrow())


def expire(lake: Lake, retention: Retention = ONE, *, before_ms: int = FAR) -> expiry.Expired:
    with lake.keeper() as keeper:
        return expiry.forget(keeper, retention) + expiry.delete(keeper, before_ms=before_ms)


def test_what_only_old_snapshots_reach_is_deleted_and_nothing_else(lake_settings: Settings) -> None:
    lake = Lake(lake_settings)
    lake.commit(3, days=2)
    replaced(lake)
    lake.commit(2, days=2)
    before, rows = lake.files(), lake.rows()
    done = expire(lake)
    assert len(lake.table().snapshots()) == 1
    assert lake.rows() == rows
    assert lake.files() == lake.reached()
    assert done.deleted == len(before) + 1 - len(lake.files())
    assert len([name for name in before - lake.files() if name.endswith(".parquet")]) == 6
    assert not ForgottenSnapshot.objects.exists()


def test_a_snapshot_that_stays_can_be_read_as_before(lake: Lake) -> None:
    lake.commit(3)
    replaced(lake)
    lake.commit(1)
    table = lake.table()
    tagged = table.snapshots()[1].snapshot_id
    table.manage_snapshots().create_tag(tagged, "audit").commit()
    expire(lake)
    assert len(lake.table().snapshots()) == 2
    assert lake.table().scan(snapshot_id=tagged).to_arrow()["_seq"].to_pylist() == [2, 3, 0, 1]
    assert lake.rows().total() == 8


def test_who_holds_an_old_metadata_file_reads_on_until_the_grace_is_over(lake: Lake) -> None:
    lake.commit(2)
    held = lake.table()
    replaced(lake)
    assert expire(lake, before_ms=now_ms() - 1000).deleted == 0
    assert len(held.scan().to_arrow()) == 4
    assert ForgottenSnapshot.objects.count() == 3
    assert expire(lake).deleted > 0
    with pytest.raises(FileNotFoundError):
        held.scan().to_arrow()


def test_the_grace_begins_when_a_snapshot_is_forgotten_not_when_it_was_made(lake: Lake) -> None:
    lake.commit(3)
    since_ms = now_ms()
    expire(lake, before_ms=0)
    assert [one.forgotten_ms >= since_ms for one in ForgottenSnapshot.objects.all()] == [True, True]
    assert lake.table().metadata.last_updated_ms >= since_ms


def test_what_was_forgotten_lately_keeps_files_that_were_forgotten_before(lake: Lake) -> None:
    lake.commit(2)
    expire(lake, before_ms=0)
    held = lake.table()
    replaced(lake)
    expire(lake, before_ms=0)
    first = ForgottenSnapshot.objects.order_by("pk").first()
    assert first is not None
    ForgottenSnapshot.objects.filter(pk=first.pk).update(forgotten_ms=1)
    expire(lake, before_ms=2)
    assert len(held.scan().to_arrow()) == 4
    assert ForgottenSnapshot.objects.count() == 2


def test_flushes_keep_the_number_of_snapshots_by_themselves(lake: Lake) -> None:
    lake.settings = dataclasses.replace(lake.settings, snapshots_max=6, snapshots_newest=3)
    seen = set()
    for _ in range(20):
        lake.commit()
        seen.add(len(lake.table().snapshots()))
    assert max(seen) == 6
    assert ForgottenSnapshot.objects.count() == 20 - len(lake.table().snapshots())
    rows = lake.rows()
    expire(lake)
    assert lake.rows() == rows
    assert lake.files() == lake.reached()


def test_what_a_commit_reads_and_writes_does_not_grow_with_the_history_of_its_table(lake: Lake) -> None:
    lake.settings = dataclasses.replace(lake.settings, snapshots_max=4, snapshots_newest=2)
    lake.commit()
    bounds = {"write.metadata.previous-versions-max": "3", "commit.manifest.min-count-to-merge": "3"}
    with lake.table().transaction() as change:
        change.set_properties(bounds)
    seen = []
    for _ in range(24):
        lake.commit()
        table = lake.table()
        place = Path(table.metadata_location)
        snapshot = table.current_snapshot()
        assert snapshot is not None
        kept = len(list(place.parent.glob("*.metadata.json")))
        seen.append((kept, len(snapshot.manifests(table.io)), place.stat().st_size))
    early, late = seen[6:12], seen[-6:]
    assert max(kept for kept, _, _ in late) <= 4 + 1
    assert max(manifests for _, manifests, _ in late) <= max(manifests for _, manifests, _ in early) <= 4
    assert max(size for _, _, size in late) < 1.05 * max(size for _, _, size in early)


class Death(Exception):
    """As if the process had died there."""


@pytest.mark.parametrize("survived", [0, 1, 3, 4, 5, 8, 11])
def test_a_death_at_any_deletion_leaves_the_rest_for_the_next_time(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    lake.commit(4)
    replaced(lake)
    rows = lake.rows()
    left, delete, at_once = [survived], DurableFileIO.delete, threading.Lock()

    def dying(io: DurableFileIO, path: Any) -> None:
        with at_once:
            if not left[0]:
                raise Death
            left[0] -= 1
        delete(io, path)

    with monkeypatch.context() as patch:
        patch.setattr(DurableFileIO, "delete", dying)
        with pytest.raises(Death):
            expire(lake)
    assert lake.rows() == rows
    expire(lake)
    assert lake.rows() == rows
    assert lake.files() == lake.reached()
    assert not ForgottenSnapshot.objects.exists()


def test_a_death_before_the_pointer_moves_forgets_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.commit(3)

    def die(*_: object, **__: object) -> bool:
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(pointers, "move_row", die)
        with pytest.raises(Death):
            expire(lake)
    assert len(lake.table().snapshots()) == 3
    assert not ForgottenSnapshot.objects.exists()
    assert TableUpkeep.objects.get().lease_until_ms == 0
    expire(lake)
    assert lake.rows().total() == 6


def test_a_flush_that_was_faster_wins_and_nothing_is_deleted(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.commit(3)
    with lake.a_flush_is_always_faster(monkeypatch), pytest.raises(CommitConflict, match="was written meanwhile"):
        expire(lake)
    assert (len(lake.table().snapshots()), lake.rows().total()) == (4, 8)
    expire(lake)
    assert (len(lake.table().snapshots()), lake.rows().total()) == (1, 8)


def test_who_lost_the_lease_commits_nothing(lake: Lake) -> None:
    lake.commit(3)
    with lake.keeper() as late:
        with lake.keeper(hours=1) as keeper:
            assert keeper.epoch == late.epoch + 1
        with pytest.raises(LeaseLost):
            expiry.forget(late, ONE)
    assert len(lake.table().snapshots()) == 3


def test_two_cannot_keep_one_table_at_once(lake: Lake) -> None:
    lake.commit()
    with lake.keeper(), lake.lease() as second:
        assert second is None
    with lake.keeper():
        pass


def test_a_keeper_whose_clock_was_an_hour_ahead_keeps_nobody_out(lake: Lake) -> None:
    lake.commit(2)
    with lake.keeper(hours=1) as wrong, lake.keeper() as right:
        with pytest.raises(LeaseLost):
            expiry.forget(wrong, ONE)
        assert expiry.forget(right, ONE).forgotten == 1


def test_a_table_dropped_meanwhile_is_left_alone(lake: Lake) -> None:
    lake.commit(2)
    row = lake.row()
    with lake.keeper() as keeper:
        lake.catalog.drop_table("lake.flights")
        with pytest.raises(LeaseLost, match="dropped"):
            expiry.forget(keeper, ONE)
    with lease.kept(row, lake.catalog, lease_ms=LEASE_MS, now_ms=now_ms) as keeper_of_nothing:
        assert keeper_of_nothing is None


def test_a_table_that_collects_nothing_keeps_all_its_files(lake: Lake) -> None:
    lake.commit(3)
    table = lake.table()
    with table.transaction() as change:
        change._apply((SetPropertiesUpdate(updates={"gc.enabled": "false"}),))
    before = lake.files()
    assert not expire(lake)
    assert lake.files() == before


def test_files_of_a_table_that_lies_elsewhere_are_not_ours(lake: Lake, tmp_path: Path) -> None:
    lake.commit(3)
    elsewhere = Lake(Settings(data_dir=tmp_path / "other"))
    location = lake.table().metadata_location
    IcebergTable.objects.all().delete()
    elsewhere.catalog.register_table("lake.flights", location)
    before = lake.files()
    assert expire(elsewhere) == expiry.Expired(forgotten=2)
    assert before - elsewhere.files() == set()
    assert not ForgottenSnapshot.objects.exists()


def test_snapshots_another_engine_expires_through_our_catalog_are_deleted_too(lake: Lake) -> None:
    lake.commit(3)
    table = lake.table()
    table.maintenance.expire_snapshots().by_id(table.snapshots()[0].snapshot_id).commit()
    assert ForgottenSnapshot.objects.count() == 1
    expire(lake)
    assert lake.files() == lake.reached()


def test_a_store_that_is_away_is_asked_again_later(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.commit(3)

    def away(*_: object) -> None:
        raise OSError("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(DurableFileIO, "delete", away)
        with pytest.raises(StoreUnavailable, match="nobody answers"):
            expire(lake)
    assert ForgottenSnapshot.objects.count() == 2
    expire(lake)
    assert lake.files() == lake.reached()


def test_the_beat_looks_after_tables_that_changed_and_no_others(settings: Any, lake: Lake) -> None:
    settings.EVODB = dataclasses.replace(lake.settings, snapshot_hours=0, snapshots_newest=1, forgotten_hours=0)
    tasks.flusher.cache_clear()
    lake.commit(3)
    lake.commit(2, name="other")
    assert tasks.upkeep() == 2
    assert [len(lake.table(name).snapshots()) for name in ("flights", "other")] == [1, 1]
    assert tasks.upkeep() == 2  # its own commits
    assert tasks.upkeep() == 0
    lake.commit()
    assert tasks.upkeep() == 1
    tasks.flusher.cache_clear()


def test_upkeep_waits_while_a_buffer_fills_up(settings: Any, lake: Lake) -> None:
    settings.EVODB = lake.settings
    lake.commit(3)
    busy = Parent.objects.create(name="busy", namespace="lake", pending_batches=1, pending_bytes=60 * 2**20)
    assert tasks.upkeep() == 0
    busy.pending_bytes = 2**20
    busy.save()
    assert tasks.upkeep() == 1


def command(*args: str) -> str:
    out = io.StringIO()
    call_command("lake", *args, stdout=out, stderr=out)
    return out.getvalue()


def test_the_command_expires_what_it_is_told(settings: Any, lake: Lake) -> None:
    settings.EVODB = lake.settings
    lake.commit(4)
    lake.commit(4, name="other")
    said = command("expire", "--table", "lake.flights", "--hours", "0", "--keep", "2", "--grace-hours", "0")
    assert said == "lake.flights: 2 snapshots forgotten, 2 files deleted\n"
    assert [len(lake.table(name).snapshots()) for name in ("flights", "other")] == [2, 4]
    assert command("upkeep").count("0 snapshots forgotten, 0 files deleted") == 2


def test_the_command_says_what_it_cannot_do(settings: Any, lake: Lake) -> None:
    settings.EVODB = lake.settings
    lake.commit()
    with pytest.raises(CommandError, match=r"no table 'lake\.orders'; tables are lake\.flights"):
        command("expire", "--table", "lake.orders")
    with pytest.raises(CommandError, match="--keep is 0, wanted a whole number of at least 1"):
        command("expire", "--keep", "0")
    with lake.keeper(), pytest.raises(CommandError, match="1 of 1 tables are not done"):
        command("expire")


def test_two_at_the_same_moment_delete_what_one_would(lake: Lake) -> None:
    lake.commit(5)
    replaced(lake)
    rows = lake.rows()
    start = threading.Barrier(2)

    def work() -> None:
        try:
            start.wait()
            with lake.lease() as keeper:
                if keeper is not None:
                    expiry.forget(keeper, ONE)
                    expiry.delete(keeper, before_ms=FAR)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lake.rows() == rows
    assert lake.files() == lake.reached()
