"""Any bytes whatsoever are a message or a ProtocolError, within bounded memory and time."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rpc import arrow_payload, batch, columns, compression, entries, frames, msgpack_payload, protocol, replies
from rpc.batch import HEADER, MESSAGE_BYTES_MAX, Encoding, Flag, Layout
from rpc.compression import Compression
from rpc.errors import ProtocolError
from rpc.messages import UNSET, WalEntry, WalOperation
from tests.repetition import at_length

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "rpc_wire.json").read_text())
MIB = 1024 * 1024

Reader = Callable[[Any], object]
READERS: dict[str, Reader] = {
    "read": lambda data: protocol.read(data, documents=True),
    "decode_message": protocol.decode_message,
    "decode_frame": lambda data: frames.decode_frame(data.encode() if isinstance(data, str) else data),
    "decode_batch": lambda data: frames.decode_batch(data.encode() if isinstance(data, str) else data),
}


def is_answered(read: Reader, data: str | bytes) -> bool:
    """Whether these bytes are a message; False when they are a ProtocolError, and nothing else is either."""
    error: ProtocolError | None = None
    try:
        read(data)
    except ProtocolError as exc:
        error = exc
    assert error is None or (str(error) and 0 <= error.sequence_number < 2**64)
    return error is None


def wal(sequence: int, operation: WalOperation = WalOperation.INSERT, **fields: Any) -> WalEntry:
    row = {"id": sequence, "name": "tea", "price": 4.5, "at": None, "tags": ["a", {"b": 1}]}
    made = {"table": "orders", "row_id": f"r{sequence}", "after": row} | fields
    return WalEntry(sequence=sequence, timestamp=1_700_000_000_000, operation=operation, **made)


ROWS = [
    wal(1),
    wal(2, WalOperation.UPDATE, before={"id": 2}, metadata={"partition": "eu"}),
    wal(3, WalOperation.DELETE, before={"id": 3, "name": "x"}, after=UNSET),
    wal(2**63 - 1, table="users", after=None),
]


def own_frames() -> list[bytes]:
    """A frame of every payload there is, plain and compressed, with and without metadata."""
    few = [msgspec.structs.replace(row, metadata=UNSET) for row in ROWS]
    raw = [entries.from_wal(row) for row in ROWS]
    payloads: list[tuple[Encoding | Layout, bytes]] = [
        (Encoding.BINARY, entries.payload_of(map(entries.from_wal, few))[0]),
        (Encoding.BINARY_METADATA, entries.payload_of(raw)[0]),
        (Encoding.COLUMNS, columns.encode(raw)),
        (Encoding.COLUMNS, columns.encode([entries.from_wal(row) for row in few])),
        (Encoding.COLUMNS, arrow_payload.encode(ROWS)),
        (Layout.MSGPACK, msgpack_payload.encode(ROWS)),
    ]
    made = []
    for number, (encoding, payload) in enumerate(payloads):
        options: dict[str, Any] = {
            "encoding": encoding, "entry_count": len(ROWS), "source": "shop-1", "sequence": number, "timestamp_ms": 5
        }  # fmt: skip
        made.append(batch.encode(payload, **options, correlation_id="c-1", is_retry=True))
        made.append(batch.encode(payload, **options, compress_with=Compression.ZSTD))
        made.append(batch.encode(payload, **options, strict_crc=True))
    return made


def golden() -> list[bytes]:
    given = [row["hex"] for row in VECTORS["messages"] if "hex" in row]
    given += [row["input"]["hex"] for group in ("decode", "errors") for row in VECTORS[group] if "hex" in row["input"]]
    texts = [row["text"] for row in VECTORS["messages"] if "text" in row]
    return [bytes.fromhex(text) for text in given if len(text) < 2_000] + [text.encode() for text in texts]


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """The seed with some of it flipped, cut out, doubled, or replaced by numbers that mean trouble."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[at % len(data)] = chance.choice((0, 1, 2, 0x20, 0x40, 0x5B, 0x7B, 0x7F, 0x80, 0xDD, 0xFF))
            case 2:
                del data[at:]
            case 3:
                del data[at : at + chance.randrange(1, 9)]
            case 4:
                data[at:at] = data[at : at + chance.randrange(1, 40)]
            case 5:
                data[at : at + 4] = struct.pack("<I", chance.choice((0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)))
            case _:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
    return bytes(data)


def headed(data: bytes) -> bytes:
    """The frame with a header that fits it again, so that a mutation gets beyond the first check."""
    if len(data) < HEADER.size or data[:4] != b"\xc2\xcd\x01\x01":
        return data
    fields = list(HEADER.unpack_from(data))
    fields[7] = max(0, len(data) - HEADER.size - fields[5] - fields[8]) & 0xFFFF_FFFF
    fields[3] &= ~Flag.STRICT_CRC
    return HEADER.pack(*fields) + data[HEADER.size :]


def test_a_hundred_thousand_mutated_frames_are_messages_or_protocol_errors() -> None:
    chance = random.Random(20_240_229)
    seeds = golden() + own_frames() * 4
    events = [frames.encode_frame({"type": "x", "data": [1]}), frames.encode_batch([{"a": 1}, {"b": 2}])] * 3
    understood = refused = 0
    for number, seed in enumerate(islice(cycle(seeds + events), 100_000)):
        data = mutated(seed, chance)
        name = "decode_message" if number % 4 == 3 else "read"
        if seed[:2] == b"\xb0\xed":
            name = "decode_frame" if number % 2 else "decode_batch"
        elif number % 2:
            data = headed(data)
        if is_answered(READERS[name], data):
            understood += 1
        else:
            refused += 1
    # Both happen a lot, so the mutations are neither harmless nor all stopped at the first byte.
    assert understood > 5_000
    assert refused > 50_000


@settings(max_examples=at_length(400), deadline=None, derandomize=True)
@given(st.sampled_from(sorted(READERS)), st.binary(max_size=300) | st.text(max_size=100))
@example("read", "\ud800")
@example("read", '{"type":"connect","timestamp":1,"sourceDoId":"\ud800"}')
@example("decode_message", b"\xc2\xcd\x01")
def test_no_bytes_raise_anything_else(name: str, data: str | bytes) -> None:
    is_answered(READERS[name], data)


@settings(max_examples=at_length(400), deadline=None, derandomize=True)
@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.sampled_from([b"", b"s", b"\xff"]), st.binary(max_size=200))
def test_no_payload_behind_a_proper_header_raises_anything_else(
    flags: int, count: int, source: bytes, payload: bytes
) -> None:
    header = (batch.MAGIC, 1, 1, flags, 5, 7, len(source), count, len(payload), 0)
    for counted in (count, int.from_bytes(payload[:4], "little")):
        unsigned = HEADER.pack(*header[:7], counted, *header[8:], 0) + source + payload
        crc = crc32(unsigned)
        signed = HEADER.pack(*header[:7], counted, *header[8:], crc) + source + payload
        for reader in ("read", "decode_message"):
            is_answered(READERS[reader], signed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["type", "timestamp", "entries", "sourceDoId", "sequenceNumber", "correlationId", "capabilities", "metadata"]
TYPES = ["connect", "cdc_batch", "heartbeat", "flush_request", "disconnect", "ack", "nack", "status", "pong"]


@settings(max_examples=at_length(400), deadline=None, derandomize=True)
@given(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(KEYS), JSON))
def test_no_json_of_the_right_names_raises_anything_else(kind: str, fields: dict[str, Any]) -> None:
    text = json.dumps({"timestamp": 1, "sourceDoId": "s", "sequenceNumber": 1, "entries": []} | fields | {"type": kind})
    for name in ("read", "decode_message"):
        is_answered(READERS[name], text)


def enclosed(payload: bytes, *, flags: int, count: int) -> bytes:
    return HEADER.pack(batch.MAGIC, 1, 1, flags, 5, 7, 0, count, len(payload), 0, 0) + payload


HUGE = 2**32 - 1
DEEP = 100_000
TRAPS = {
    "entries that are not there": enclosed(struct.pack("<I", HUGE), flags=0, count=HUGE),
    "columns that are not there": enclosed(struct.pack("<IHH", HUGE, 65_535, 3), flags=Flag.COLUMNS, count=HUGE),
    "msgpack array that is not there": enclosed(b"\xdd" + b"\xff" * 4, flags=Flag.MSGPACK, count=HUGE),
    "deep msgpack": enclosed(b"\x91" * DEEP, flags=Flag.MSGPACK, count=1),
    "deep msgpack value": enclosed(
        b"\x91\x96\x01\x01\x00\xa1t\xa1r" + b"\x91" * DEEP + b"\xc0", flags=Flag.MSGPACK, count=1
    ),
    "deep json": b"[" * DEEP,
    "deep json value": b'{"type":"disconnect","timestamp":1,"x":' + b'{"x":' * DEEP,
    "deep json entry": b'{"type":"cdc_batch","timestamp":1,"sourceDoId":"s","sequenceNumber":1,"entries":['
    b'{"sequence":1,"timestamp":1,"operation":"INSERT","table":"t","rowId":"r","after":' + b"[" * DEEP,
    "digits without end": b'{"type":"disconnect","timestamp":' + b"1" * MIB + b"}",
    "names of tables without end": enclosed(
        struct.pack("<IHH", 1, 65_535, 0) + bytes(2 * 65_535), flags=Flag.COLUMNS, count=1
    ),
    "zstd bomb": enclosed(zstandard.compress(bytes(64 * MIB)), flags=Flag.COMPRESSED, count=0),
    "zstd bomb that hides its size": enclosed(
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * MIB)), flags=Flag.COMPRESSED, count=0
    ),
    "zstd that lies about its size": enclosed(
        b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**62) + bytes(9), flags=Flag.COMPRESSED, count=0
    ),
    "zstd without data": enclosed(b"\x50\x2a\x4d\x18\x04\0\0\0abcd", flags=Flag.COMPRESSED, count=0),
    "zstd and garbage": enclosed(zstandard.compress(b"\0\0\0\0") + b"!", flags=Flag.COMPRESSED, count=0),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_costs_little(name: str) -> None:
    for reader in ("read", "decode_message"):
        tracemalloc.start()
        try:
            assert not is_answered(READERS[reader], TRAPS[name])
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB + 2 * len(TRAPS[name])
        finally:
            tracemalloc.stop()


def test_a_bomb_is_known_by_what_it_announces_before_anything_is_made() -> None:
    data = zstandard.compress(bytes(64 * MIB))
    with pytest.raises(ProtocolError, match=f"announces {64 * MIB} bytes"):
        compression.decompress(data, bytes_max=MESSAGE_BYTES_MAX)


def test_a_message_of_16_mib_is_taken_and_one_byte_more_is_not() -> None:
    for kind, size in (("binary", MESSAGE_BYTES_MAX), ("json", MESSAGE_BYTES_MAX)):
        if kind == "binary":
            room = size - HEADER.size - len("s") - 4 - entries.HEADER.size - len("tr") - 2
            row = entries.RawEntry(1, 2, 0, b"t", b"r", b"", b'"' + b"x" * room + b'"')
            data = batch.encode(
                entries.payload_of([row])[0],
                encoding=Encoding.BINARY, entry_count=1, source="s", sequence=1, timestamp_ms=2,
            )  # fmt: skip
            assert protocol.read(data).sequence == 1  # type: ignore[union-attr]
        else:
            text = '{"type":"disconnect","timestamp":1,"reason":"'
            data = (text + "x" * (size - len(text) - 2) + '"}').encode()
            assert protocol.read(data).type == "disconnect"  # type: ignore[union-attr]
            assert protocol.read(data.decode()).type == "disconnect"  # type: ignore[union-attr]
        assert len(data) == size
        for reader in ("read", "decode_message"):
            with pytest.raises(ProtocolError, match="16777217 bytes; at most 16777216"):
                READERS[reader](data + b" ")


def test_bytes_are_counted_and_not_characters() -> None:
    text = '{"type":"disconnect","timestamp":1,"reason":"' + "ü" * (MESSAGE_BYTES_MAX // 2) + '"}'
    with pytest.raises(ProtocolError, match="at most 16777216"):
        protocol.read(text)


def test_acks_and_nacks_are_never_read_as_a_childs_frames() -> None:
    for kind in (replies.KIND_ACK, replies.KIND_NACK, 9):
        assert not is_answered(READERS["read"], b"\xc2\xcd\x01" + bytes([kind]) + bytes(40))
