"""A metadata file is read once, is forgotten when there is no room, and what is known of it is what it says."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.io import InputFile
from pyiceberg.serializers import FromInputFile
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.types import LongType

from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.known_metadata import FIELD_BYTES, MADE_BYTES, size_bytes
from lakehouse.catalog.storage import from_settings
from lakehouse.conf import Settings
from lakehouse.models import IcebergTable
from tests.lakehouse.test_tables import commit, rows, stage

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    read = FromInputFile.table_metadata

    def noted(file: InputFile) -> TableMetadata:
        found.append(file.location)
        return read(file)

    monkeypatch.setattr(FromInputFile, "table_metadata", noted)
    return found


@pytest.fixture
def catalog(tmp_path: Path) -> DjangoCatalog:
    return from_settings(Settings(data_dir=tmp_path))


def test_a_table_that_was_written_here_is_read_by_nobody_here_again(catalog: DjangoCatalog, reads: list[str]) -> None:
    for _ in range(3):
        commit(stage(catalog, rows(3)))
        assert len(catalog.load_table("lake.flights").scan().to_arrow()) % 3 == 0
    assert reads == []


def test_what_another_process_wrote_is_read_once(catalog: DjangoCatalog, tmp_path: Path, reads: list[str]) -> None:
    other = from_settings(Settings(data_dir=tmp_path))
    for _ in range(2):
        commit(stage(catalog, rows(3)))
        for _ in range(3):
            other.load_table("lake.flights")
    assert len(reads) == len(set(reads)) == 2


def test_what_is_known_of_a_table_is_what_its_file_says_whatever_was_changed(catalog: DjangoCatalog) -> None:
    def check() -> None:
        location = IcebergTable.objects.get().metadata_location
        assert catalog.load_table("lake.flights").metadata == catalog._read(location)

    before = []
    commit(stage(catalog, rows(3)))
    for column in ("more", "still_more"):
        before.append((catalog.load_table("lake.flights"), IcebergTable.objects.get().metadata_location))
        commit(stage(catalog, rows(3, **{column: pa.array(range(3), pa.int32())})))
        check()
    table = catalog.load_table("lake.flights")
    with table.update_schema() as schema:
        schema.update_column("more", LongType()).rename_column("still_more", "less")
    check()
    with table.transaction() as change:
        change.set_properties({"owner": "someone"})
        change.delete("more = 1")
    check()
    with table.update_spec() as spec:
        spec.add_identity("more")
    check()
    table.maintenance.expire_snapshots().by_id(table.snapshots()[0].snapshot_id).commit()
    check()
    for old, location in before:
        assert old.metadata == catalog._read(location), "a later change altered what an earlier reader holds"


def test_a_table_can_be_sent_to_another_process(catalog: DjangoCatalog) -> None:
    """As whoever scans it with several sends it."""
    commit(stage(catalog, rows(3)))
    sent = pickle.loads(pickle.dumps(catalog.load_table("lake.flights")))
    assert len(sent.scan().to_arrow()) == 3
    assert sent.refresh().metadata == catalog.load_table("lake.flights").metadata


def test_columns_within_columns_and_long_properties_take_room_too(catalog: DjangoCatalog) -> None:
    catalog.create_namespace("lake")
    inner = pa.struct({f"f{number}": pa.int64() for number in range(500)})
    kinds = {"flat": pa.int64(), "deep": pa.list_(inner), "mapped": pa.map_(pa.string(), inner)}
    sizes = {
        name: size_bytes(catalog.create_table(("lake", name), pa.schema({"c": kind})).metadata)
        for name, kind in kinds.items()
    }
    assert sizes["deep"] - sizes["flat"] == 501 * (FIELD_BYTES + MADE_BYTES)
    assert sizes["mapped"] - sizes["flat"] == 502 * (FIELD_BYTES + MADE_BYTES)
    said = catalog.create_table("lake.said", pa.schema({"c": pa.int64()}), properties={"comment": "x" * 5000})
    assert size_bytes(said.metadata) > sizes["flat"] + 5000


def test_metadata_mended_by_hand_counts_when_it_is_registered_again(catalog: DjangoCatalog) -> None:
    commit(stage(catalog, rows(3)))
    location = IcebergTable.objects.get().metadata_location
    document = json.loads(Path(location).read_text())
    document["properties"]["owner"] = "mended"
    Path(location).write_text(json.dumps(document))
    catalog.drop_table("lake.flights")
    catalog.register_table("lake.flights", location)
    assert catalog.load_table("lake.flights").properties["owner"] == "mended"


def test_files_that_no_pointer_names_take_no_room(catalog: DjangoCatalog, tmp_path: Path) -> None:
    commit(stage(catalog, rows(3)))
    location = IcebergTable.objects.get().metadata_location
    stranger = from_settings(Settings(data_dir=tmp_path))
    stranger._read(location)
    assert stranger._known.find(location) is None
