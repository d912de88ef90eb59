"""permessage-deflate: what a child's offer is answered with, and what is inflated of its messages."""

import zlib

import pytest
from autobahn.exception import PayloadExceededError
from autobahn.websocket.compress_bzip2 import PerMessageBzip2Offer
from autobahn.websocket.compress_deflate import PerMessageDeflateOffer

from lakehouse.limits.deflate import WINDOW_BITS, Deflate, answer

MIB = 1024 * 1024


def opened(bytes_max, **offered):
    accepted = answer([PerMessageDeflateOffer(**offered)], bytes_max=bytes_max)
    return Deflate.create_from_offer_accept(True, accepted)


def deflated(content):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(content) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def heard(socket, *pieces):
    socket.start_decompress_message()
    content = b"".join(socket.decompress_message_data(piece) for piece in pieces)
    socket.end_decompress_message()
    return content


def test_nothing_is_accepted_when_nothing_may_be_inflated():
    assert answer([PerMessageDeflateOffer()], bytes_max=0) is None


def test_another_compression_is_declined_and_the_next_offer_is_looked_at():
    assert answer([PerMessageBzip2Offer()], bytes_max=MIB) is None
    assert answer([PerMessageBzip2Offer(), PerMessageDeflateOffer()], bytes_max=MIB) is not None


@pytest.mark.parametrize(("asked", "bits"), [(0, WINDOW_BITS), (15, WINDOW_BITS), (9, 9)])
def test_what_we_say_needs_no_larger_window_than_the_child_has(asked, bits):
    assert opened(MIB, request_max_window_bits=asked).server_max_window_bits == bits


def test_a_child_reads_what_we_say():
    socket, reader = opened(MIB), zlib.decompressobj(-15)
    for number in range(50):
        said = b'{"type":"ack","sequenceNumber":%d}' % number * 40
        socket.start_compress_message()
        packed = socket.compress_message_data(said) + socket.end_compress_message()
        assert reader.decompress(packed + b"\x00\x00\xff\xff") == said


def test_messages_as_large_as_they_may_be_are_inflated_one_after_the_other():
    socket = opened(MIB, request_no_context_takeover=True)
    for _ in range(3):
        socket._decompressor = None  # each message of this child stands for itself
        packed = deflated(bytes(MIB))
        assert heard(socket, packed[:100], packed[100:]) == bytes(MIB)


def test_a_message_that_grows_too_large_is_refused_and_nothing_is_inflated_after_it():
    socket = opened(MIB)
    bomb = deflated(bytes(64 * MIB))
    socket.start_decompress_message()
    with pytest.raises(PayloadExceededError):
        socket.decompress_message_data(bomb[:32_000])
    inflater = socket._decompressor = Inflater()
    for piece in (bomb[32_000:], deflated(b"x")):
        with pytest.raises(PayloadExceededError):
            socket.decompress_message_data(piece)
        socket.end_decompress_message()
    assert inflater.asked == 0


class Inflater:
    asked = 0

    def decompress(self, *_):
        self.asked += 1
        return b""
