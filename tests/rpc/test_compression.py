from __future__ import annotations

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rpc.compression import compress, decompress, is_available
from rpc.errors import ProtocolError


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=2000), st.integers(1, 50))
def test_a_payload_comes_back(piece: bytes, times: int) -> None:
    payload = piece * times
    assert decompress(compress(payload), bytes_max=len(payload)) == payload


def test_this_installation_has_it() -> None:
    assert is_available()


def test_one_byte_over_the_bound_is_refused() -> None:
    assert decompress(compress(bytes(1000)), bytes_max=1000) == bytes(1000)
    with pytest.raises(ProtocolError, match="announces 1001 bytes"):
        decompress(compress(bytes(1001)), bytes_max=1000)


WHOLE = zstandard.compress(b"some text " * 100)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain",
        WHOLE[:-1],
        WHOLE + b"x",
        WHOLE + WHOLE,
        b"\x50\x2a\x4d\x18\x04\0\0\0abcd",
        zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100),
        zstandard.ZstdCompressor(
            dict_data=zstandard.ZstdCompressionDict(b"some text " * 100, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        ).compress(b"some text " * 100)[:-2],
        b"\x28\xb5\x2f\xfd\xe0" + (2**62).to_bytes(8, "little") + bytes(9),
    ],
    ids=repr,
)
def test_anything_else_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="compressed payload"):
        decompress(data, bytes_max=2**24)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.data())
def test_no_damage_makes_more_than_was_allowed(data: st.DataObject) -> None:
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(decompress(bytes(damaged), bytes_max=5000)) <= 5000
    except ProtocolError as exc:
        assert str(exc)  # noqa: PT017
