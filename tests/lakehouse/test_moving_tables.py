"""Files of a lake that moves: every snapshot is there as it was, and nothing names the old place any more."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import DecimalType, NestedField, UUIDType

from lakehouse.catalog import files
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.lakes import chosen
from lakehouse.catalog.retention import Retention
from lakehouse.catalog.storage import from_settings
from lakehouse.catalog.store_properties import properties
from lakehouse.catalog.upkeep import compaction, expiry, orphans
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.models import ForgottenSnapshot, IcebergTable, Namespace
from lakehouse.moving import avro_container, pointers
from lakehouse.moving.avro_container import Container
from lakehouse.moving.house import Move, Plan
from lakehouse.moving.old_house import CannotMove
from lakehouse.moving.relocation import Immovable, Relocation
from lakehouse.moving.tables import TableMove
from lakehouse.query import duck
from lakehouse.torture.flaky_store import FlakyStore
from tests.builders import NOW_MS, frame, parent, run, source
from tests.lakehouse.rest_site import Site, site
from tests.lakehouse.upkeep_site import Lake
from tests.services import ObjectStore

pytestmark = pytest.mark.django_db(transaction=True)
DAY_MS = 24 * 3_600_000


@pytest.fixture
def old(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "old")


@pytest.fixture(params=["folder", "s3"])
def new(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "folder":
        return Settings(data_dir=tmp_path / "new")
    return in_a_bucket(request.getfixturevalue("rclone_store"), tmp_path)


def relocation(old: Settings, new: Settings) -> Relocation:
    return Relocation(old.resolved_warehouse, old.resolved_warehouse, new.resolved_warehouse)


def move(places: Relocation, new: Settings) -> list[str]:
    said = list[str]()
    Move(Plan("", places), new, now_ms=now_ms(), say=said.append).run()
    return said


def flushes(settings: Settings, count: int) -> None:
    shop = source(parent())
    flusher = Flusher("worker-1", settings, chosen(settings), lambda: NOW_MS)
    for number in range(count):
        entries = run(number * 10 + 1, number * 10 + 10, timestamp_ms=NOW_MS + number * DAY_MS)
        accept([(shop, frame(number + 1, entries))], now_ms=NOW_MS)
        flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)


def rows_of(settings: Settings, name: str = "lake.orders") -> list[list[dict[str, Any]]]:
    """Of each snapshot, as pyiceberg and DuckDB read them."""
    table = from_settings(settings).load_table(name)
    found = []
    for snapshot in table.metadata.snapshots:
        rows = table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().to_pylist()
        found.append(sorted(rows, key=lambda row: str(sorted(row.items(), key=str))))
    with duck.connect(settings) as connection:
        counted = connection.sql(f"SELECT count(*) FROM {duck.scan(table.metadata_location)}").fetchone()
    assert counted == (len(found[-1]),)
    return found


def test_a_lake_that_moves_has_every_snapshot_as_it_was_and_needs_the_old_place_no_more(
    old: Settings, new: Settings
) -> None:
    flushes(old, 3)
    before = from_settings(old).load_table("lake.orders").metadata
    wanted, left = rows_of(old), files_in(old)
    row = IcebergTable.objects.get()
    ForgottenSnapshot.objects.create(table=row, snapshot_id=1, manifest_list="gone", forgotten_ms=1)
    assert move(relocation(old, new), new)[0].startswith("lake.orders: 3 files, ")
    assert files_in(old) == left, "nothing was changed where it was"
    shutil.rmtree(old.data_dir)
    assert rows_of(new) == wanted
    after = from_settings(new).load_table("lake.orders").metadata
    assert [one.snapshot_id for one in after.snapshots] == [one.snapshot_id for one in before.snapshots]
    assert (after.table_uuid, after.snapshot_log, after.schemas) == (
        before.table_uuid,
        before.snapshot_log,
        before.schemas,
    )
    assert str(old.data_dir) not in after.model_dump_json()
    assert not ForgottenSnapshot.objects.exists(), "its files stayed behind"


def files_in(settings: Settings) -> dict[Path, tuple[int, bytes]]:
    found = (path for path in settings.data_dir.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def test_every_file_is_on_the_disk_before_a_table_is_said_to_be_there(
    old: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes(old, 2)
    new, synced, seen = Settings(data_dir=tmp_path / "new"), set[Path](), list[set[Path]]()
    monkeypatch.setattr(files, "sync", lambda path: synced.add(Path(path)))
    monkeypatch.setattr(pointers, "point", lambda *_: seen.append(set(synced)))
    move(relocation(old, new), new)
    assert [set(new.data_dir.rglob("*")) - found for found in seen] == [set()]


def test_flushes_go_on_where_a_lake_moved_to(old: Settings, new: Settings) -> None:
    flushes(old, 1)
    move(relocation(old, new), new)
    shutil.rmtree(old.data_dir)
    shop = source(parent("second"))
    accept([(shop, frame(1, run(1, 10)))], now_ms=NOW_MS)
    Flusher("worker-2", new, chosen(new), lambda: NOW_MS).run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert [len(found) for found in rows_of(new)] == [10, 20]


def test_files_that_were_copied_with_the_folder_are_found_by_where_they_were(old: Settings, tmp_path: Path) -> None:
    """`mv data elsewhere`, and back to a lake that works."""
    flushes(old, 2)
    wanted = rows_of(old)
    new = Settings(data_dir=tmp_path / "elsewhere")
    old.data_dir.rename(new.data_dir)
    files = {path for path in new.data_dir.rglob("*") if path.is_file()}
    lake = new.resolved_warehouse
    assert move(Relocation(old.resolved_warehouse, lake, lake), new)[0] == "lake.orders: 0 files, 0 bytes"
    assert rows_of(new) == wanted
    assert files < {path for path in new.data_dir.rglob("*") if path.is_file()}, "nothing was overwritten or taken away"


def test_rows_that_others_deleted_by_position_stay_deleted(tmp_path: Path, new: Settings) -> None:
    with site(tmp_path / "old") as lake:
        table = catalog_of(lake).create_table("lake.t", pa.schema([("id", pa.int64())]), properties={"x": "y"})
        table.append(pa.table({"id": list(range(100))}))
        with lake.duckdb() as duckdb:
            duckdb.execute("DELETE FROM lake.lake.t WHERE id % 3 = 0")
        old = lake.settings
    wanted = rows_of(old, "lake.t")
    assert len(wanted[-1]) == 66
    move(relocation(old, new), new)
    shutil.rmtree(old.resolved_warehouse)
    assert rows_of(new, "lake.t") == wanted


def test_partitions_by_two_columns_of_one_type_move(tmp_path: Path, new: Settings) -> None:
    """Their types have one name in the manifests of pyiceberg. Avro does not allow it, and DuckDB ends its process."""
    price, ids = pa.decimal128(9, 2), [uuid.UUID(int=7).bytes]
    with site(tmp_path / "old") as lake:
        schema = Schema(
            NestedField(1, "from", UUIDType()),
            NestedField(2, "to", UUIDType()),
            NestedField(3, "low", DecimalType(9, 2)),
            NestedField(4, "high", DecimalType(9, 2)),
        )
        by = PartitionSpec(*(PartitionField(n, 999 + n, IdentityTransform(), f"p{n}") for n in range(1, 5)))
        table = catalog_of(lake).create_table("lake.t", schema, partition_spec=by)
        given = {"from": pa.array(ids, pa.binary(16)), "to": pa.array([None], pa.binary(16))}
        prices = {"low": pa.array([Decimal("-1.23")], price), "high": pa.array([Decimal("9.99")], price)}
        table.append(pa.table(given | prices))
        old = lake.settings
    (wanted,) = from_settings(old).load_table("lake.t").scan().to_arrow().to_pylist()
    move(relocation(old, new), new)
    shutil.rmtree(old.resolved_warehouse)
    table = from_settings(new).load_table("lake.t")
    assert table.scan().to_arrow().to_pylist() == [wanted]
    assert not list(table.scan("low > 0").plan_files())


def catalog_of(lake: Site) -> RestCatalog:
    catalog = lake.pyiceberg()
    catalog.create_namespace("lake", {"location": f"{lake.settings.resolved_warehouse}/lake"})
    return catalog


def test_a_namespace_makes_its_next_table_in_the_new_place(tmp_path: Path, new: Settings) -> None:
    with site(tmp_path / "old") as lake:
        catalog_of(lake).create_table("lake.t", pa.schema([("id", pa.int64())]))
        old = lake.settings
    move(relocation(old, new), new)
    assert Namespace.objects.get().properties == {"location": f"{new.resolved_warehouse}/lake"}


def test_what_is_there_already_is_not_copied_again(old: Settings, new: Settings) -> None:
    flushes(old, 2)
    said = list[str]()
    ahead = Move(Plan("", relocation(old, new)), new, now_ms=now_ms(), say=said.append)
    ahead.ahead()
    assert said[0].startswith("lake.orders: 2 files, ")
    assert IcebergTable.objects.get().metadata_location.startswith(old.resolved_warehouse), "it is open still"
    assert move(relocation(old, new), new)[0] == "lake.orders: 0 files, 0 bytes"
    assert [len(found) for found in rows_of(new)] == [10, 20]


def test_a_disk_that_is_full_leaves_nothing_that_could_be_taken_for_a_file(
    old: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes(old, 2)
    wanted, new = rows_of(old), Settings(data_dir=tmp_path / "new")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(CannotMove, match=r"lake\.orders cannot be moved: .*No space left on device"):
            move(relocation(old, new), new)
    assert not [path for path in new.data_dir.rglob("data/**/*") if path.is_file()]
    move(relocation(old, new), new)
    assert rows_of(new) == wanted


def test_a_table_that_was_changed_meanwhile_moves_not_and_neither_do_the_others(
    old: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes(old, 1)
    new = Settings(data_dir=tmp_path / "new")
    usual = TableMove.run

    def run_and_change(self: TableMove, location: str) -> Any:
        moved = usual(self, location)
        IcebergTable.objects.update(metadata_location=f"{location}.newer")
        return moved

    monkeypatch.setattr(TableMove, "run", run_and_change)
    with pytest.raises(CannotMove, match=r"lake\.orders was changed meanwhile; stop all programs"):
        move(relocation(old, new), new)


def test_what_lies_elsewhere_stays_and_is_said(old: Settings, tmp_path: Path) -> None:
    flushes(old, 1)
    new, namespace = Settings(data_dir=tmp_path / "new"), Namespace.objects.get()
    IcebergTable.objects.create(namespace=namespace, name="far", metadata_location="s3://theirs/far/1.metadata.json")
    said = move(relocation(old, new), new)
    assert "lake.far (s3://theirs/far/1.metadata.json) stays where it is" in said
    with pytest.raises(CannotMove, match=r"no table says that it lies in /nowhere: lake.orders .*--written-as"):
        move(Relocation("/nowhere", "/nowhere", str(tmp_path / "third")), new)


@pytest.fixture
def io(old: Settings) -> DurableFileIO:
    return DurableFileIO(properties(old))


def test_a_file_that_is_gone_or_torn_is_named_and_nothing_moves(old: Settings, tmp_path: Path) -> None:
    flushes(old, 1)
    new, row = Settings(data_dir=tmp_path / "new"), IcebergTable.objects.get()
    (manifest,) = Path(old.resolved_warehouse).rglob("*-m0.avro")
    content = manifest.read_bytes()
    manifest.write_bytes(content[:100])
    with pytest.raises(CannotMove, match=r"lake\.orders cannot be moved: .*m0\.avro"):
        move(relocation(old, new), new)
    manifest.unlink()
    with pytest.raises(CannotMove, match=r"lake\.orders cannot be moved: .*m0\.avro"):
        move(relocation(old, new), new)
    manifest.write_bytes(content)
    for data in Path(old.resolved_warehouse).rglob("*.parquet"):
        data.unlink()
    with pytest.raises(CannotMove, match=r"lake\.orders cannot be moved: .*\.parquet"):
        move(relocation(old, new), new)
    assert IcebergTable.objects.get().metadata_location == row.metadata_location


@pytest.mark.parametrize("text", ["{}", "[]", '{"location": 1, "snapshots": [2]}', "no JSON"])
def test_metadata_that_somebody_wrote_by_hand_is_named(text: str, old: Settings, tmp_path: Path) -> None:
    flushes(old, 1)
    Path(IcebergTable.objects.get().metadata_location).write_text(text)
    with pytest.raises(CannotMove, match=r"lake\.orders cannot be moved: "):
        move(relocation_to(old, str(tmp_path / "new")), Settings(data_dir=tmp_path))


def test_a_table_whose_manifests_lie_elsewhere_is_not_torn_apart(old: Settings, io: DurableFileIO) -> None:
    flushes(old, 1)
    path = Path(IcebergTable.objects.get().metadata_location)
    document = json.loads(path.read_text())
    document["snapshots"][0]["manifest-list"] = "s3://theirs/snap-1.avro"
    path.write_text(json.dumps(document))
    with pytest.raises(Immovable, match=r"it has s3://theirs/snap-1\.avro, which does not lie in "):
        TableMove(io, relocation_to(old, "/new")).run(str(path))


def changed_entries(manifest: Path, **changes: Any) -> None:
    """As whoever may write files of a lake may have them."""
    found = avro_container.read(manifest.read_bytes(), manifest.name)
    entries = [one | {"data_file": one["data_file"] | changes} for one in found.records]
    manifest.write_bytes(avro_container.write(Container(found.meta, entries)))


def test_deletes_of_a_kind_that_cannot_be_written_anew_are_named(old: Settings, io: DurableFileIO) -> None:
    flushes(old, 1)
    (manifest,) = Path(old.resolved_warehouse).rglob("*-m0.avro")
    changed_entries(manifest, content=1, file_format="PUFFIN")
    with pytest.raises(Immovable, match="deleted by a file of PUFFIN; let the engine that did it merge them, and for"):
        TableMove(io, relocation_to(old, "/new")).run(IcebergTable.objects.get().metadata_location)


def relocation_to(old: Settings, target: str) -> Relocation:
    return Relocation(old.resolved_warehouse, old.resolved_warehouse, target)


@pytest.mark.parametrize("how", ["file://{lake}/../secret", "{lake}/../secret", "file://{outside}", "{outside}"])
def test_a_manifest_that_names_files_outside_of_the_lake_brings_none_of_them_into_it(
    how: str, old: Settings, new: Settings, tmp_path: Path
) -> None:
    flushes(old, 1)
    outside = Path(old.resolved_warehouse).parent / "secret"
    outside.write_text("root:x:0:0")
    (manifest,) = Path(old.resolved_warehouse).rglob("*-m0.avro")
    path = how.format(lake=old.resolved_warehouse, outside=outside)
    changed_entries(manifest, file_path=path)
    said = move(relocation(old, new), new)
    assert said == ["lake.orders: 0 files, 0 bytes", f"lake.orders: 1 files stay where they are, as {path}"]
    table = from_settings(new).load_table("lake.orders")
    assert [task.file.file_path for task in table.scan().plan_files()] == [path]
    assert "secret" not in {one.name for one in tmp_path.rglob("*") if one != outside}


@pytest.mark.parametrize("kind", ["manifest", "deletes"])
def test_what_names_files_and_lies_outside_is_neither_read_nor_written(
    kind: str, old: Settings, io: DurableFileIO, tmp_path: Path
) -> None:
    flushes(old, 1)
    lake, outside = Path(old.resolved_warehouse), tmp_path / "theirs.parquet"
    outside.write_bytes(b"PAR1")
    (manifest,) = lake.rglob("*-m0.avro")
    if kind == "deletes":
        changed_entries(manifest, content=1, file_path=f"file://{lake}/../../{outside.name}")
    else:
        (path,) = lake.rglob("snap-*.avro")
        found = avro_container.read(path.read_bytes(), path.name)
        entries = [one | {"manifest_path": f"file://{lake}/../../{outside.name}"} for one in found.records]
        path.write_bytes(avro_container.write(Container(found.meta, entries)))
    there = set(tmp_path.iterdir())
    for work in (TableMove.run, *([TableMove.copy_data] if kind == "manifest" else [])):
        with pytest.raises(Immovable, match=r"theirs\.parquet, which does not lie in "):
            work(TableMove(io, relocation_to(old, str(tmp_path / "new"))), IcebergTable.objects.get().metadata_location)
    assert set(tmp_path.iterdir()) - {tmp_path / "new"} == there


def test_files_that_upkeep_deletes_while_they_are_copied_ahead_are_not_missed(
    old: Settings, rclone_store: ObjectStore, tmp_path: Path
) -> None:
    flushes(old, 3)
    lake, new = Path(old.resolved_warehouse), in_a_bucket(rclone_store, tmp_path)
    first, *_ = sorted(lake.rglob("*.parquet"))
    (newest,) = (path for path in lake.rglob("snap-*.avro") if len(manifests_in(path)) == 3)
    first.unlink()
    Path(manifests_in(newest)[1]).unlink()
    said = list[str]()
    Move(Plan("", relocation(old, new)), new, now_ms=now_ms(), say=said.append).ahead()
    assert said[0].startswith("lake.orders: 1 files, ")
    for path in lake.rglob("snap-*.avro"):
        path.unlink()
    Move(Plan("", relocation(old, new)), new, now_ms=now_ms(), say=said.append).ahead()
    assert said[1] == "lake.orders: 0 files, 0 bytes"


def test_what_was_copied_ahead_and_then_merged_is_swept_where_it_came_to(old: Settings, new: Settings) -> None:
    lake = Lake(old)
    lake.commit(3)
    rows, places = lake.rows(), relocation(old, new)
    Move(Plan("", places), new, now_ms=now_ms(), say=lambda _: None).ahead()
    with lake.keeper() as keeper:
        assert compaction.compact(keeper, compaction.Terms(target_bytes=2**27, files_min=2, is_tiered=False)).new == 1
        expiry.forget(keeper, Retention(age_ms=0, newest=1, most=1))
        expiry.delete(keeper, before_ms=2**62)
    assert move(places, new)[0].startswith("lake.flights: 1 files, ")
    shutil.rmtree(old.data_dir)
    moved = Lake(new)
    with moved.keeper() as keeper:
        assert orphans.sweep(keeper, before_ms=2**62, is_dry_run=False).deleted == 3
    assert moved.files() == moved.reached()
    assert moved.rows() == rows


def manifests_in(path: Path) -> list[str]:
    return [one["manifest_path"] for one in avro_container.read(path.read_bytes(), path.name).records]


def in_a_bucket(store: ObjectStore, folder: Path) -> Settings:
    return Settings(data_dir=folder, warehouse=f"s3://{store.bucket}/{uuid.uuid4().hex}", **store.settings)


class AfterAFew(random.Random):
    """Dice by which all requests but the first ones meet a mood."""

    left = 9

    def random(self) -> float:
        self.left -= 1
        return 0.0 if self.left >= 0 else 0.9


@pytest.mark.usefixtures("asked_twice")
@pytest.mark.parametrize("mood", ["500", "cut"])
def test_a_store_that_goes_away_on_the_way_is_said_and_the_same_is_typed_again(
    mood: str, old: Settings, rclone_store: ObjectStore, tmp_path: Path
) -> None:
    flushes(old, 4)
    wanted, new = rows_of(old), in_a_bucket(rclone_store, tmp_path)
    store = FlakyStore(int(rclone_store.endpoint.rpartition(":")[2]), AfterAFew())
    moody = dataclasses.replace(new, s3_endpoint=f"http://127.0.0.1:{store.port}")
    store.moods = [mood]
    try:
        with pytest.raises(CannotMove, match=r"lake\.orders cannot be moved: "):
            move(relocation(old, moody), moody)
    finally:
        store.close()
    assert store.met
    assert IcebergTable.objects.get().metadata_location.startswith(old.resolved_warehouse)
    move(relocation(old, new), new)
    shutil.rmtree(old.data_dir)
    assert rows_of(new) == wanted
