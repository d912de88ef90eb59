"""An Arrow IPC stream of a stranger, read within bounds. The door to pyarrow, which is imported when it is used.

Columns of documents have one of six types, those a lake column is made with: boolean, 64-bit integer, double, string,
timestamp in microseconds UTC, date. So nothing nests, and no type is bound to a dictionary or to code. Compressed
buffers are refused before Arrow sees them, because it would make whatever size they announce; compress the batch. Arrow
then checks every offset and every text. 1000 rows of 8 columns are read in 60 us, 100 in 35.
"""

from __future__ import annotations

import struct
from array import array
from functools import lru_cache
from typing import Any, NamedTuple

from rpc.columns import Columns
from rpc.errors import ProtocolError

__all__ = ["COLUMNS_MAX", "REST", "Extent", "documents", "read", "types", "write"]

REST = "_rest"
"""The column with what has no column of its own, a JSON object as text."""

COLUMNS_MAX = 1000
"""Keys of the documents of one table in one batch; what a lake column may be is judged elsewhere."""
CELLS_MAX = 2 * 1024 * 1024
"""A boolean is a bit here and much more when it has to be text; a full message of usual rows has half as many."""
NAME_BYTES_MAX = 255
"""As of a column of the lake. A stream says a name once; what becomes of its values in `_rest` says it in each row."""
NAMES_BYTES_MAX = 64 * 1024 * 1024
"""Of all names, once for each row."""
TABLES_WORTH = 2
"""A batch of many tables may have so many times what one of them may."""
BEYOND = 2**32
"""A row no table has."""
CONTINUATION = 0xFFFF_FFFF
MESSAGE = struct.Struct("<II")
SCHEMA, RECORD_BATCH = 1, 3
U16, I32, U32, I64 = (struct.Struct(f"<{code}") for code in "HiIq")


class Extent(NamedTuple):
    """What documents come to when each value is a text and each row says all its keys."""

    cells: int
    names_bytes: int

    @classmethod
    def of(cls, *tables: Any) -> Extent:
        rows = [(table.num_rows, table.column_names) for table in tables]
        return cls(
            sum(count * len(names) for count, names in rows),
            sum(count * sum(len(name.encode()) for name in names) for count, names in rows),
        )

    def beside(self, other: Extent) -> Extent:
        return Extent(self.cells + other.cells, self.names_bytes + other.names_bytes)

    def is_beyond(self) -> bool:
        """Whether it is more than a batch may have, or a flush of several."""
        return self.cells > TABLES_WORTH * CELLS_MAX or self.names_bytes > TABLES_WORTH * NAMES_BYTES_MAX


def types() -> tuple[Any, ...]:
    """What a column may be. Raises ProtocolError without pyarrow."""
    pa = arrow()
    return (pa.bool_(), pa.int64(), pa.float64(), pa.string(), pa.timestamp("us", tz="UTC"), pa.date32())


def read(stream: memoryview | bytes) -> Any:
    """The checked table in this stream. Raises ProtocolError, whatever the bytes are."""
    pa = arrow()
    # A copy, because Arrow wants its buffers on addresses a payload does not keep to.
    whole = bytes(stream)
    _check_envelope(whole)
    try:
        with pa.ipc.open_stream(pa.py_buffer(whole)) as reader:
            _check_schema(reader.schema, types())
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as exc:
        raise ProtocolError(f"not an Arrow stream: {str(exc)[:500]}") from None
    found = Extent.of(table)
    if found.cells > CELLS_MAX:
        said = f"documents of a table have {found.cells} values in one batch"
        raise ProtocolError(f"{said}; at most {CELLS_MAX} are allowed")
    if found.names_bytes > NAMES_BYTES_MAX:
        said = f"the keys of {table.num_rows} documents have {found.names_bytes} bytes together"
        raise ProtocolError(f"{said}; at most {NAMES_BYTES_MAX} are allowed in one batch")
    return table.replace_schema_metadata(None)


def documents(found: Columns) -> tuple[Any, list[Any]]:
    """The row of each entry's document in the stream of its table (i64, null for an entry without one), and the
    documents of each table.

    Raises ProtocolError. Each document belongs to one entry, in order: entries that share one would make more of it
    than the bytes that came.
    """
    if not found.streams:
        return None, []
    pa = arrow()
    streams = [read(stream) if len(stream) else pa.table({}) for stream in found.streams]
    if (whole := Extent.of(*streams)).is_beyond():
        said = f"documents of {len(streams)} tables have {whole.cells} values and {whole.names_bytes} bytes of keys"
        most = f"{TABLES_WORTH * CELLS_MAX} and {TABLES_WORTH * NAMES_BYTES_MAX}"
        raise ProtocolError(f"{said} in one batch; at most {most} are allowed")
    numbers, in_turn, rows = found.documents.tobytes(), *_in_turn(found.rows)
    if len(streams) == 1 and numbers == in_turn:
        last = [found.rows]
    else:
        rows, last = _rows(pa, numbers), _last_of_each(found)
    if any(number > stream.num_rows for number, stream in zip(last, streams, strict=True)):
        raise ProtocolError("entries do not point to the documents of their table one after the other")
    return rows, streams


@lru_cache(maxsize=16)
def _in_turn(count: int) -> tuple[bytes, Any]:
    """The numbers of documents when each entry has one, which is the usual case, and their rows."""
    return array("I", range(1, count + 1)).tobytes(), arrow().array(range(count), "int64")


def _rows(pa: Any, numbers: bytes) -> Any:
    import pyarrow.compute as pc

    found = pa.Array.from_buffers(pa.uint32(), len(numbers) // U32.size, [None, pa.py_buffer(numbers)]).cast(pa.int64())
    return pc.if_else(pc.equal(found, pa.scalar(0)), pa.scalar(None, pa.int64()), pc.subtract(found, pa.scalar(1)))


def _last_of_each(found: Columns) -> list[int]:
    """The highest number of each table, all of them rising; BEYOND when they do not."""
    last = [0] * len(found.streams)
    for table, number in zip(found.table_index, found.documents, strict=True):
        if number:
            last[table] = number if number > last[table] else BEYOND
    return last


def write(table: Any) -> bytes:
    """The stream of this table. Raises ProtocolError for a column that documents do not have."""
    pa = arrow()
    _check_schema(table.schema, types())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def arrow() -> Any:
    """pyarrow. Raises ProtocolError when this installation does not have it."""
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError:
        raise ProtocolError("Arrow documents need pyarrow: pip install 'evodb[arrow]'") from None
    return pa


def _check_schema(schema: Any, allowed: tuple[Any, ...]) -> None:
    if len(schema) > COLUMNS_MAX:
        raise ProtocolError(f"documents have {len(schema)} columns; at most {COLUMNS_MAX} are allowed")
    if len(set(schema.names)) != len(schema):
        raise ProtocolError("documents have two columns of one name")
    for column in schema:
        if column.type not in ([arrow().string()] if column.name == REST else allowed):
            wanted = ", ".join(map(str, allowed))
            raise ProtocolError(f"column {column.name[:100]!r} of documents is {column.type}, wanted one of {wanted}")
        if (size := len(column.name.encode())) > NAME_BYTES_MAX:
            wanted = f"at most {NAME_BYTES_MAX}; send what is in it in {REST}"
            raise ProtocolError(
                f"column {column.name[:100]!r} of documents has a name of {size} bytes, wanted {wanted}"
            )


def _check_envelope(stream: bytes) -> None:
    """The messages of the stream: a schema and record batches, none of them compressed, and the mark of its end."""
    position, end, size = 0, len(stream), 1
    try:
        while size:
            continuation, size = MESSAGE.unpack_from(stream, position)
            position += MESSAGE.size
            if continuation != CONTINUATION:
                raise ProtocolError(f"Arrow message begins with 0x{continuation:08x}, wanted 0x{CONTINUATION:08x}")
            if size:
                position += size + _body_bytes(stream[position : position + size])
            if position > end:
                break
    except struct.error:
        position = end + 1
    if position != end:
        raise ProtocolError(f"Arrow stream of {end} bytes is not as long as its messages say")


def _body_bytes(metadata: bytes) -> int:
    """How long the body of a message is, from its FlatBuffer of metadata. Raises struct.error."""
    message = U32.unpack_from(metadata)[0]
    kind_at, header_at, length_at = (_field(metadata, message, number) for number in (1, 2, 3))
    kind = metadata[kind_at] if kind_at and kind_at < len(metadata) else 0
    if kind not in (SCHEMA, RECORD_BATCH):
        raise ProtocolError(f"Arrow message of kind {kind}, wanted {SCHEMA} schema or {RECORD_BATCH} record batch")
    length: int = I64.unpack_from(metadata, length_at)[0] if length_at else 0
    if length < 0 or not header_at:
        raise ProtocolError(f"Arrow message with a body of {length} bytes and no header")
    header = header_at + U32.unpack_from(metadata, header_at)[0]
    if kind == RECORD_BATCH and _field(metadata, header, 3):
        raise ProtocolError("Arrow stream has compressed buffers, wanted plain ones; compress the batch instead")
    return length


def _field(metadata: bytes, table: int, number: int) -> int:
    """Where a field of a FlatBuffer's table lies, 0 when it is absent. Raises struct.error."""
    vtable = table - I32.unpack_from(metadata, table)[0]
    if vtable < 0:
        raise struct.error("table before its buffer")
    at = 4 + 2 * number
    if at >= U16.unpack_from(metadata, vtable)[0]:
        return 0
    offset: int = U16.unpack_from(metadata, vtable + at)[0]
    return table + offset if offset else 0
