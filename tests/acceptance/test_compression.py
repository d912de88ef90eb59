"""Messages compressed by WebSockets themselves (permessage-deflate), through a real daphne."""

from __future__ import annotations

import os
import select
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from rpc.messages import AckStatus
from rpc.protocol import decode_message
from tests.acceptance.processes import House, until
from tests.acceptance.raw_socket import RawSocket
from tests.builders import run, wire
from tests.services import free_port

MIB = 1024 * 1024
FRAME_BYTES_MAX = 4 * MIB
OFFER = {"Sec_WebSocket_Extensions": "permessage-deflate"}
TEXT_COMPRESSED = 0xC1


class Compressing(House):
    """Only daphne runs."""

    def open(self) -> None:
        self.prepare()
        self.daphne.start()
        until(self._listens, "daphne listens", self.daphne)

    @property
    def memory_peak_mib(self) -> float:
        """As the kernel saw it since the process began."""
        told = Path(f"/proc/{self.daphne.pid}/status").read_text()
        return int(told.partition("VmHWM:")[2].split()[0]) / 1024

    def knock(self, **more: str) -> RawSocket:
        return RawSocket(self.settings.up_port, **more)

    @asynccontextmanager
    async def child(self, compression: str | None = "deflate"):
        async with connect(self.url, compression=compression) as opened:
            yield opened

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.settings.up_port)) == 0


@contextmanager
def opened(folder: Path, **said: object) -> Iterator[Compressing]:
    with Compressing(folder, open=True, up_port=free_port(), frame_bytes_max=FRAME_BYTES_MAX, **said) as house:
        house.open()
        yield house
        assert "Traceback" not in house.daphne.said


@pytest.fixture(scope="module")
def compressing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compressing]:
    with opened(tmp_path_factory.mktemp("compressing"), websocket_compression=True) as house:
        yield house


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compressing]:
    with opened(tmp_path_factory.mktemp("plain")) as house:
        yield house


@pytest.fixture(params=["compressing", "plain"])
def house(request: pytest.FixtureRequest) -> Compressing:
    return request.getfixturevalue(request.param)


async def ack(child: ClientConnection, sequence: int, frame: bytes | str):
    await child.send(frame)
    found = decode_message(await child.recv())
    assert (found.type, found.sequence_number) == ("ack", sequence)
    return found.status


async def test_a_child_that_offers_compression_is_taken_at_its_word_only_where_it_is_on(house: Compressing) -> None:
    async with house.child() as child:
        told = child.response.headers.get("Sec-WebSocket-Extensions", "")
        assert told.startswith("permessage-deflate") == house.settings.websocket_compression
        assert bool(child.protocol.extensions) == house.settings.websocket_compression


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_batches_are_acked_in_both_cases_and_their_repeats_are_known(
    house: Compressing, compression: str | None
) -> None:
    name = f"shop-{compression}"
    async with house.child(compression) as child:
        for sequence, last in ((1, 3), (2, 4), (3, 5000)):
            content = wire(sequence, run(sequence, last), source=name)
            assert await ack(child, sequence, content) is AckStatus.OK
        again = wire(3, run(3, 5000), source=name)
        assert await ack(child, 3, again) is AckStatus.DUPLICATE
        await child.send("ping")
        assert await child.recv() == "pong"


async def test_a_message_in_compressed_parts_is_put_together(compressing: Compressing) -> None:
    async with compressing.child() as child:
        content = wire(1, run(1, 500), source="in-parts")
        await child.send([content[:1000], content[1000:1001], content[1001:]])
        assert decode_message(await child.recv()).status is AckStatus.OK


def test_a_compressed_frame_where_nobody_agreed_to_any_ends_the_connection(house: Compressing) -> None:
    with house.knock() as child:
        assert (child.status, "sec-websocket-extensions" in child.headers) == (101, False)
        child.socket.sendall(compressed(b"ping"))
        assert child.hear().code == 1002


def test_what_cannot_be_inflated_ends_the_connection(compressing: Compressing) -> None:
    with compressing.knock(**OFFER) as child:
        child.socket.sendall(head(TEXT_COMPRESSED, 40) + b"\xff" * 40)
        assert child.hear().code == 1007


async def test_a_message_of_kilobytes_that_wants_to_be_megabytes_is_refused_and_never_in_memory(
    compressing: Compressing,
) -> None:
    async with compressing.child() as neighbour:
        assert await ack(neighbour, 1, wire(1, run(1, 3), source="neighbour")) is AckStatus.OK
        before_mib = compressing.memory_peak_mib
        for size_mib in (16, 1024):
            bomb = deflated_zeros(size_mib)
            with compressing.knock(**OFFER) as child:
                assert child.headers["sec-websocket-extensions"] == "permessage-deflate"
                child.socket.sendall(head(TEXT_COMPRESSED, len(bomb)) + bomb)
                assert child.hear().code == 1009
        assert compressing.memory_peak_mib - before_mib < 8 * FRAME_BYTES_MAX / MIB
        assert await ack(neighbour, 2, wire(2, run(4, 6), source="neighbour")) is AckStatus.OK


async def test_a_bomb_in_many_parts_is_one(compressing: Compressing) -> None:
    before_mib = compressing.memory_peak_mib
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    with compressing.knock(**OFFER) as child:
        for number in range(64):
            if select.select([child.socket], [], [], 0)[0]:
                break  # it was told already
            part = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_SYNC_FLUSH)
            child.socket.sendall(head(0x41 if number == 0 else 0x00, len(part)) + part)
        assert child.hear().code == 1009
    assert compressing.memory_peak_mib - before_mib < 8 * FRAME_BYTES_MAX / MIB


async def test_the_client_of_a_library_that_sends_too_much_hears_why(compressing: Compressing) -> None:
    async with compressing.child() as child:
        await child.send("x" * (FRAME_BYTES_MAX + 1))
        with pytest.raises(ConnectionClosed) as caught:
            await child.recv()
        assert caught.value.rcvd.code == 1009


async def test_a_compressed_message_may_be_as_large_as_any_other(compressing: Compressing) -> None:
    async with compressing.child() as child:
        await child.send(os.urandom(FRAME_BYTES_MAX // 2 - 100).hex())
        assert decode_message(await child.recv()).reason == "invalid_format"


def compressed(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = (packer.compress(content) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return head(TEXT_COMPRESSED, len(packed)) + packed


def deflated_zeros(size_mib: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [packer.compress(bytes(MIB)) for _ in range(size_mib)]
    return b"".join([*parts, packer.flush(zlib.Z_SYNC_FLUSH)])[:-4]


def head(first: int, size: int) -> bytes:
    """Of a masked frame, with a mask that changes nothing."""
    if size < 126:
        return bytes([first, 0x80 | size]) + bytes(4)
    if size < 65536:
        return struct.pack(">BBH", first, 0x80 | 126, size) + bytes(4)
    return struct.pack(">BBQ", first, 0x80 | 127, size) + bytes(4)
