from __future__ import annotations

import random
import struct
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest

from rpc import arrow_stream, columns
from rpc.arrow_stream import CELLS_MAX, COLUMNS_MAX
from rpc.entries import RawEntry
from rpc.errors import ProtocolError

TABLE = pa.table(
    {
        "flag": [True, None, False],
        "n": [1, 2, None],
        "x": [0.5, None, 1e300],
        "s": ["a", "ü", None],
        "at": pa.array([datetime(2024, 1, 2, tzinfo=UTC)] * 3, pa.timestamp("us", tz="UTC")),
        "day": pa.array([date(2024, 1, 2)] * 3),
        "_rest": [None, '{"a":1}', None],
    }
)


def stream(table: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write(table)
    return bytes(sink.getvalue().to_pybytes())


def test_a_table_comes_back_without_its_metadata() -> None:
    described = TABLE.replace_schema_metadata({"pandas": "{}"})
    assert arrow_stream.read(arrow_stream.write(described)).equals(TABLE, check_metadata=True)
    assert arrow_stream.read(memoryview(b"x" + arrow_stream.write(TABLE))[1:]).equals(TABLE)


def test_several_record_batches_are_one_table() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=1)
    assert arrow_stream.read(sink.getvalue().to_pybytes()).num_rows == 3


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1], pa.int32()),
        pa.array(["a"], pa.large_string()),
        pa.array([b"a"]),
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([None], pa.null()),
        pa.array([1], pa.timestamp("us")),
        pa.array([1], pa.timestamp("ns", tz="UTC")),
    ],
    ids=lambda column: str(column.type),
)
def test_a_column_of_another_type_is_refused_by_both_sides(column: Any) -> None:
    table = pa.table({"c": column})
    with pytest.raises(ProtocolError, match="column 'c' of documents is"):
        arrow_stream.read(stream(table))
    with pytest.raises(ProtocolError, match="wanted one of bool, int64, double"):
        arrow_stream.write(table)


def test_the_rest_is_text() -> None:
    with pytest.raises(ProtocolError, match="column '_rest' of documents is int64"):
        arrow_stream.read(stream(pa.table({"_rest": [1]})))


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_buffers_are_refused_before_arrow_sees_them(compression: str) -> None:
    bomb = pa.table({"s": ["x" * 1_000_000] * 50})
    small = stream(bomb, compression=compression)
    assert len(small) < 1_000_000
    before = pa.total_allocated_bytes()
    with pytest.raises(ProtocolError, match="compressed buffers"):
        arrow_stream.read(small)
    assert pa.total_allocated_bytes() == before


def test_dictionaries_are_refused() -> None:
    with pytest.raises(ProtocolError, match="Arrow message of kind 2"):
        arrow_stream.read(stream(pa.table({"d": pa.array(["a", "b"]).dictionary_encode()})))


def test_too_many_columns_or_values_are_refused() -> None:
    wide = pa.table({f"c{number}": [1] for number in range(COLUMNS_MAX + 1)})
    with pytest.raises(ProtocolError, match="1001 columns; at most 1000"):
        arrow_stream.read(stream(wide))
    long = pa.table({"b": pa.nulls(CELLS_MAX + 1, pa.bool_())})
    with pytest.raises(ProtocolError, match=f"at most {CELLS_MAX} are allowed"):
        arrow_stream.read(stream(long))


def test_names_that_would_be_repeated_in_every_row_are_bounded() -> None:
    arrow_stream.read(stream(pa.table({"n" * 255: [True]})))
    with pytest.raises(ProtocolError, match="has a name of 256 bytes, wanted at most 255; send what is in it in _rest"):
        arrow_stream.read(stream(pa.table({"ü" * 128: [True]})))
    wide = pa.table({f"_{number}".ljust(255, "x"): pa.nulls(2000, pa.bool_()) for number in range(200)})
    with pytest.raises(ProtocolError, match="the keys of 2000 documents have 102000000 bytes together"):
        arrow_stream.read(stream(wide))


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(ProtocolError, match="two columns of one name"):
        arrow_stream.read(stream(pa.table([[1], [2]], names=["a", "a"])))


def test_text_that_is_not_utf8_is_refused() -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    with pytest.raises(ProtocolError, match="not an Arrow stream"):
        arrow_stream.read(stream(pa.table({"s": broken})))


def test_offsets_that_point_elsewhere_are_refused() -> None:
    whole = stream(pa.table({"s": ["abcde"]}))
    broken = whole.replace(b"\0\0\0\0\5\0\0\0", b"\0\0\0\0\xff\0\0\0")
    assert broken != whole
    with pytest.raises(ProtocolError, match="not an Arrow stream"):
        arrow_stream.read(broken)


@pytest.mark.parametrize("garbage", [b"", b"x", b"\xff" * 8, b"\xff" * 200, bytes(200), b"\xff\xff\xff\xff\0\0\0\0"])
def test_garbage_is_a_protocol_error(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        arrow_stream.read(garbage)


def test_a_stream_cut_off_or_followed_by_more_is_a_protocol_error() -> None:
    whole = arrow_stream.write(TABLE)
    for end in range(len(whole)):
        with pytest.raises(ProtocolError):
            arrow_stream.read(whole[:end])
    with pytest.raises(ProtocolError, match="not as long as its messages say"):
        arrow_stream.read(whole + b"more")


@pytest.mark.parametrize("announced", [2**62, 2**63 - 8, 2**63 - 1])
def test_a_body_that_announces_more_than_any_memory_has_is_a_protocol_error(announced: int) -> None:
    whole = stream(pa.table({"n": range(1000)}))
    broken = whole.replace(struct.pack("<q", 8000), struct.pack("<q", announced), 1)
    assert broken != whole
    with pytest.raises(ProtocolError, match="not as long as its messages say"):
        arrow_stream.read(broken)


def test_no_damage_raises_anything_else() -> None:
    chance = random.Random(7)
    whole = arrow_stream.write(TABLE)
    survived = 0
    for _ in range(20_000):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            damaged[chance.randrange(len(damaged))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        try:
            table = arrow_stream.read(bytes(damaged))
        except ProtocolError:
            continue
        survived += 1
        assert table.num_rows * table.num_columns <= CELLS_MAX
        table.validate(full=True)
    assert 1_000 < survived < 19_000


def payload(numbers: list[int], tables: list[bytes], streams: dict[bytes, bytes]) -> columns.Columns:
    raw = [RawEntry(number, 1, 0, table, b"r") for number, table in enumerate(tables)]
    return columns.decode(columns.encode(raw, documents=numbers, streams=streams))


def test_each_document_belongs_to_one_entry_of_its_table() -> None:
    whole = arrow_stream.write(TABLE)
    t, both = [b"t"] * 3, {b"t": whole, b"u": whole}
    for numbers, tables, streams in (
        ([1, 2, 3], t, {b"t": whole}),
        ([0, 1, 3], t, {b"t": whole}),
        ([0, 0, 0], t, {b"t": whole}),
        ([2, 1, 3], [b"t", b"u", b"t"], both),
        ([2, 0, 3], [b"t", b"u", b"t"], {b"t": whole, b"u": b""}),
    ):
        found, documents = arrow_stream.documents(payload(numbers, tables, streams))
        assert found.to_pylist() == [number - 1 if number else None for number in numbers]
        assert documents[0].num_rows == 3
    for numbers, tables, streams in (
        ([1, 1, 2], t, {b"t": whole}),
        ([2, 1, 3], t, {b"t": whole}),
        ([1, 2, 4], t, {b"t": whole}),
        ([2, 1, 2], [b"t", b"u", b"t"], both),
        ([1, 4, 2], [b"t", b"u", b"t"], both),
        ([1, 1, 2], [b"t", b"u", b"t"], {b"t": whole, b"u": b""}),
    ):
        with pytest.raises(ProtocolError, match="one after the other"):
            arrow_stream.documents(payload(numbers, tables, streams))
    assert arrow_stream.documents(columns.decode(columns.encode([]))) == (None, [])
