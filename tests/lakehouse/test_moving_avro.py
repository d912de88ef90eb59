"""Avro files of Iceberg, taken apart and put together again: whatever is in them, it is there afterwards."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.errors import DamagedTable
from lakehouse.moving import avro_container
from lakehouse.moving.avro_container import CODEC, SCHEMA

MANIFEST: dict[str, Any] = {
    "type": "record",
    "name": "manifest_entry",
    "fields": [
        {"name": "status", "type": "int", "field-id": 0},
        {
            "name": "partition",
            "field-id": 102,
            "type": {
                "type": "record",
                "name": "r102",
                "fields": [
                    {"name": "_ts_day", "type": ["null", {"type": "int", "logicalType": "date"}], "field-id": 1000},
                    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "field-id": 1001},
                    {
                        "name": "price",
                        "type": {
                            "type": "fixed",
                            "name": "decimal_9_2",
                            "size": 4,
                            "logicalType": "decimal",
                            "precision": 9,
                            "scale": 2,
                        },
                        "field-id": 1002,
                    },
                ],
            },
        },
        {
            "name": "lower_bounds",
            "field-id": 125,
            "type": [
                "null",
                {
                    "type": "array",
                    "logicalType": "map",
                    "items": {
                        "type": "record",
                        "name": "k126_v127",
                        "fields": [
                            {"name": "key", "type": "int", "field-id": 126},
                            {"name": "value", "type": "bytes", "field-id": 127},
                        ],
                    },
                },
            ],
        },
        {"name": "of_the_next_version", "type": ["null", "string"], "default": None, "field-id": 9999},
    ],
}
INT, LONG = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
BOUND = st.fixed_dictionaries({"key": INT, "value": st.binary(max_size=20)})
ENTRY = st.fixed_dictionaries(
    {
        "status": INT,
        "partition": st.fixed_dictionaries(
            {"_ts_day": st.none() | INT, "at": LONG, "price": st.binary(min_size=4, max_size=4)}
        ),
        "lower_bounds": st.none() | st.lists(BOUND, max_size=3),
        "of_the_next_version": st.none() | st.text("aß✓\0", max_size=20),
    }
)


@settings(deadline=None, derandomize=True)
@given(st.lists(ENTRY, max_size=5), st.sampled_from(["null", "deflate", "zstandard", "snappy"]))
def test_days_after_the_year_9999_and_fields_of_later_versions_come_back(
    records: list[dict[str, Any]], codec: str
) -> None:
    meta = {SCHEMA: json.dumps(MANIFEST).encode(), CODEC: codec.encode(), "partition-spec": b"[]"}
    content = avro_container.write(avro_container.Container(meta, records))
    assert taken_apart(content) == (meta, records)
    assert taken_apart(avro_container.write(avro_container.read(content, "m0.avro"))) == (meta, records)


def taken_apart(content: bytes) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    found = avro_container.read(content, "m0.avro")
    return found.meta, list(found.records)


def test_what_any_reader_of_avro_makes_of_it_stays() -> None:
    record = {"status": 1, "partition": {"_ts_day": 19_675, "at": 7, "price": b"\0\0\0\7"}, "lower_bounds": []}
    meta = {SCHEMA: json.dumps(MANIFEST).encode(), CODEC: b"deflate"}
    entries = [record | {"of_the_next_version": "x"}]
    content = avro_container.write(avro_container.Container(meta, entries))
    reader = fastavro.reader(io.BytesIO(content))
    (found,) = reader
    assert str(found["partition"]["_ts_day"]) == "2023-11-14"
    assert str(found["partition"]["price"]) == "0.07"
    assert reader.metadata[SCHEMA] == json.dumps(MANIFEST)


@pytest.mark.parametrize("damage", [slice(0), slice(4), slice(100), slice(-10)])
def test_a_file_that_was_cut_is_damaged_and_no_crash(damage: slice) -> None:
    meta = {SCHEMA: json.dumps(MANIFEST).encode(), CODEC: b"deflate"}
    entry = {"status": 1, "partition": {"_ts_day": None, "at": 7, "price": b"\0\0\0\7"}}
    entries = [entry | {"lower_bounds": None, "of_the_next_version": "x" * 100}]
    content = avro_container.write(avro_container.Container(meta, entries))
    with pytest.raises(DamagedTable, match=r"m0\.avro is no whole Avro file: "):
        taken_apart(content[damage])
    with pytest.raises(DamagedTable, match=r"m0\.avro is no whole Avro file: "):
        taken_apart(b"PAR1" + content)
