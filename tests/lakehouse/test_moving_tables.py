"""Files of a lake that moves: every snapshot is there as it was, and nothing names the old place any more."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog.rest import RestCatalog

from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.lakes import chosen
from lakehouse.catalog.storage import from_settings
from lakehouse.catalog.store_properties import properties
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.models import ForgottenSnapshot, IcebergTable, Namespace
from lakehouse.moving import avro_container
from lakehouse.moving.house import Move, Plan
from lakehouse.moving.naming import Immovable
from lakehouse.moving.old_house import CannotMove
from lakehouse.moving.relocation import Relocation
from lakehouse.moving.tables import TableMove
from lakehouse.query import duck
from tests.builders import NOW_MS, frame, parent, run, source
from tests.lakehouse.rest_site import Site, site
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
    store: ObjectStore = request.getfixturevalue("rclone_store")
    return Settings(data_dir=tmp_path, warehouse=f"s3://{store.bucket}/{uuid.uuid4().hex}", **store.settings)


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
    wanted = rows_of(old)
    row = IcebergTable.objects.get()
    ForgottenSnapshot.objects.create(table=row, snapshot_id=1, manifest_list="gone", forgotten_ms=1)
    assert move(relocation(old, new), new)[0].startswith("lake.orders: 3 files, ")
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


def test_what_is_there_already_is_not_sent_again(old: Settings, rclone_store: ObjectStore, tmp_path: Path) -> None:
    new = Settings(
        data_dir=tmp_path, warehouse=f"s3://{rclone_store.bucket}/{uuid.uuid4().hex}", **rclone_store.settings
    )
    flushes(old, 2)
    said = list[str]()
    ahead = Move(Plan("", relocation(old, new)), new, now_ms=now_ms(), say=said.append)
    ahead.ahead()
    assert said[0].startswith("lake.orders: 2 files, ")
    assert IcebergTable.objects.get().metadata_location.startswith(old.resolved_warehouse), "it is open still"
    assert move(relocation(old, new), new)[0] == "lake.orders: 0 files, 0 bytes"
    assert [len(found) for found in rows_of(new)] == [10, 20]


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


def test_a_table_whose_manifests_lie_elsewhere_is_not_torn_apart(old: Settings, io: DurableFileIO) -> None:
    flushes(old, 1)
    path = Path(IcebergTable.objects.get().metadata_location)
    document = json.loads(path.read_text())
    document["snapshots"][0]["manifest-list"] = "s3://theirs/snap-1.avro"
    path.write_text(json.dumps(document))
    with pytest.raises(Immovable, match=r"it has s3://theirs/snap-1\.avro, which does not lie in "):
        TableMove(io, Relocation(old.resolved_warehouse, old.resolved_warehouse, "/new")).run(str(path))


def test_deletes_of_a_kind_that_cannot_be_written_anew_are_named(old: Settings, io: DurableFileIO) -> None:
    flushes(old, 1)
    (manifest,) = Path(old.resolved_warehouse).rglob("*-m0.avro")
    found = avro_container.read(manifest.read_bytes())
    found.records[0]["data_file"] |= {"content": 1, "file_format": "PUFFIN"}
    manifest.write_bytes(avro_container.write(found))
    with pytest.raises(Immovable, match="deleted by a file of PUFFIN; let the engine that did it merge them"):
        TableMove(io, Relocation(old.resolved_warehouse, old.resolved_warehouse, "/new")).run(
            IcebergTable.objects.get().metadata_location
        )
