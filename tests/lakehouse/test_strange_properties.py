"""What somebody wrote into the properties of a table, and a flush that writes to it all the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pytest
from django.db import transaction
from pyiceberg.table.update import SetPropertiesUpdate

from lakehouse.catalog import strange_properties, tables
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.storage import from_settings
from lakehouse.conf import Settings
from tests.lakehouse.staging import stage_rows
from tests.lakehouse.test_tables import rows

pytestmark = pytest.mark.django_db(transaction=True)

ODD = {
    "write.format.default": "orc",
    "write.parquet.compression-codec": "lzo",
    "write.parquet.compression-level": "high",
    "write.parquet.row-group-limit": "many",
    "write.parquet.page-row-limit": "many",
    "write.parquet.page-size-bytes": "1 MB",
    "write.parquet.dict-size-bytes": "9" * 5000,
    "write.target-file-size-bytes": "large",
    "write.avro.compression-codec": "lzo",
    "write.metadata.metrics.default": "all",
    "write.metadata.metrics.column._seq": "truncate(0)",
    "write.metadata.previous-versions-max": "few",
    "write.metadata.delete-after-commit.enabled": "maybe",
    "write.object-storage.enabled": "maybe",
    "commit.manifest-merge.enabled": "maybe",
    "commit.manifest.min-count-to-merge": "few",
    "commit.manifest.target-size-bytes": "1 MB",
    "commit.retry.num-retries": "some",
    "schema.name-mapping.default": "{",
}


@pytest.fixture
def catalog(tmp_path: Path) -> DjangoCatalog:
    return from_settings(Settings(data_dir=tmp_path))


def flush(catalog: DjangoCatalog, found: pa.Table, parquet: dict[str, str]) -> None:
    staged = stage_rows(catalog, "lake", "t", found, flush_id=1, parquet=parquet)
    with transaction.atomic():
        tables.swap([staged])


def written(catalog: DjangoCatalog, **properties: str) -> DjangoCatalog:
    """A table of two flushes, the second one after somebody set these properties."""
    flush(catalog, rows(1), {})
    catalog.commit_table(catalog.load_table("lake.t"), (), (SetPropertiesUpdate(updates=properties),))
    flush(catalog, rows(1, more=pa.array([1])), {})
    return catalog


@pytest.mark.parametrize("name", ODD)
def test_a_property_that_cannot_be_meant_stops_no_flush_and_stays(catalog: DjangoCatalog, name: str) -> None:
    table = written(catalog, **{name: ODD[name]}).load_table("lake.t")
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert (table.properties[name], snapshot.summary["total-records"]) == (ODD[name], "2")


def test_a_level_of_compression_stops_no_flush_whose_codec_has_none(catalog: DjangoCatalog) -> None:
    written(catalog, **{"write.parquet.compression-level": "3"})
    flush(catalog, rows(1), {"write.parquet.compression-codec": "snappy"})
    assert len(catalog.load_table("lake.t").scan().to_arrow()) == 3


def test_a_property_that_names_code_runs_none(
    catalog: DjangoCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(tmp_path, "evil_provider.py").write_text("def Provider(*_): raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    impl = {"write.py-location-provider.impl": "evil_provider.Provider"}
    written(catalog, **impl)
    catalog.create_table("lake.u", catalog.load_table("lake.t").schema(), properties=impl)
    assert "evil_provider" not in sys.modules


def test_what_can_be_meant_counts() -> None:
    said = {
        "write.parquet.compression-codec": "GZIP",
        "write.parquet.compression-level": "9",
        "write.metadata.metrics.default": "truncate(16)",
        "write.metadata.metrics.max-inferred-column-defaults": "7",
        "other": "x",
    }
    assert strange_properties.meant(said) == said | {"write.parquet.compression-codec": "gzip"}
    assert strange_properties.meant({"write.parquet.compression-level": "10"}) == {
        "write.parquet.compression-level": "10"
    }
