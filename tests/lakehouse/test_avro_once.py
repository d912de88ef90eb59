"""Manifests of tables that are partitioned otherwise are each read and written as what they are."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.avro.encoder import BinaryEncoder
from pyiceberg.avro.file import AvroFileHeader
from pyiceberg.transforms import BucketTransform, IdentityTransform

from lakehouse.catalog import avro_once
from lakehouse.conf import Settings
from tests.lakehouse.upkeep_site import Lake

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_table_whose_partitions_change_between_flushes_says_of_each_file_where_it_lies(tmp_path: Path) -> None:
    lake = Lake(Settings(data_dir=tmp_path))
    lake.commit()
    with lake.table().update_spec() as spec:
        spec.add_field("_seq", BucketTransform(4), "bucket")
    lake.commit()
    with lake.table().update_spec() as spec:
        spec.remove_field("bucket")
        spec.add_field("_epoch", IdentityTransform(), "of")
    lake.commit()
    lake.commit()
    found = [file["partition"] for file in lake.table().inspect.files().to_pylist()]
    assert [one["bucket"] is not None for one in found].count(True) == 2
    assert [one["of"] is not None for one in found].count(True) == 2
    assert lake.rows().total() == 8


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-5000, 5000)), st.binary(max_size=300))
def test_numbers_are_written_as_the_library_writes_them(numbers: list[int], content: bytes) -> None:
    streams = BytesIO(), BytesIO()
    for encoder in (BinaryEncoder(streams[0]), avro_once.Encoder(streams[1])):  # type: ignore[arg-type]
        for number in numbers:
            encoder.write_int(number)
        encoder.write_bytes(content)
    assert streams[0].getvalue() == streams[1].getvalue()


def test_headers_without_end_are_not_kept() -> None:
    before = avro_once._schema_of.cache_info().currsize
    text = '{"type": "record", "name": "r", "doc": "%s", "fields": []}' % ("x" * avro_once.TEXT_CHARS_MAX)
    assert AvroFileHeader(b"", {"avro.schema": text}, b"").get_schema().fields == ()
    assert avro_once._schema_of.cache_info().currsize == before
    assert avro_once._schema_of.cache_info().maxsize == avro_once.SCHEMAS_MAX
