from __future__ import annotations

import json

import pytest
from msgspec import UNSET

from rpc.compression import Compression
from rpc.messages import BufferStats, ClientCapabilities, ConnectMessage, ParentState, StatusMessage
from rpc.negotiation import PayloadEncoding, Terms, accept, choose, offers, settle, takes_documents
from rpc.protocol import decode_message, encode_message

ARROW, MSGPACK, COLUMNS, BINARY = (PayloadEncoding(name) for name in ("arrow", "msgpack", "columns", "binary"))
STATS = BufferStats(batch_count=0, entry_count=0, total_size_bytes=0, utilization=0)


def asked(capabilities: ClientCapabilities, *, epoch: int | None = 1) -> StatusMessage:
    """What a child hears: connect over the wire, status over the wire."""
    connect = decode_message(
        encode_message(
            ConnectMessage(
                timestamp=1, source_do_id="s", capabilities=capabilities, epoch=UNSET if epoch is None else epoch
            )
        )
    )
    assert isinstance(connect, ConnectMessage)
    accepted = accept(connect.capabilities, has_epoch=connect.epoch is not UNSET)
    status = StatusMessage(
        timestamp=1, state=ParentState.IDLE, buffer=STATS, connected_children=1, **accepted._asdict()
    )
    back = decode_message(encode_message(status))
    assert isinstance(back, StatusMessage)
    return back


def test_an_old_child_never_sees_the_fields() -> None:
    text = str(encode_message(asked(ClientCapabilities())))
    assert not {"encodings", "compressions"} & json.loads(text).keys()
    assert settle(ClientCapabilities(), asked(ClientCapabilities())) == Terms(COLUMNS, Compression.NONE)


def test_a_child_gets_the_first_of_its_wishes_that_the_parent_takes() -> None:
    child = ClientCapabilities(encodings=["smoke", "arrow", "msgpack", "columns"], compressions=["brotli", "zstd"])
    status = asked(child)
    assert (status.encodings, status.compressions) == (["arrow", "msgpack", "columns"], ["zstd"])
    assert settle(child, status) == Terms(ARROW, Compression.ZSTD)


def test_arrow_needs_an_epoch() -> None:
    child = ClientCapabilities(encodings=["arrow", "msgpack"])
    assert settle(child, asked(child, epoch=None)) == Terms(MSGPACK, Compression.NONE)
    assert takes_documents(accept(child, has_epoch=True))
    assert not takes_documents(accept(child, has_epoch=False))
    assert not takes_documents(accept(child, has_epoch=True, takes_arrow=False))
    assert not takes_documents(accept(ClientCapabilities(), has_epoch=True))


@pytest.mark.parametrize(
    ("offered", "accepted", "chosen"),
    [
        ([], UNSET, COLUMNS),
        (["arrow"], UNSET, COLUMNS),
        (["binary"], UNSET, BINARY),
        (["arrow", "binary"], [], BINARY),
        (["msgpack", "arrow"], ["arrow", "msgpack"], MSGPACK),
        (["arrow"], ["smoke"], COLUMNS),
        (["smoke"], ["smoke"], COLUMNS),
    ],
)
def test_an_encoding_is_chosen(offered: list[str], accepted: list[str], chosen: PayloadEncoding) -> None:
    assert choose(offered, accepted) is chosen


def test_a_parent_cannot_talk_a_child_into_what_it_did_not_offer() -> None:
    child = ClientCapabilities(encodings=["columns"], compressions=[])
    status = asked(ClientCapabilities(encodings=["arrow"], compressions=["zstd"]))
    assert settle(child, status) == Terms(COLUMNS, Compression.NONE)


def test_a_child_offers_what_it_has_the_libraries_for() -> None:
    assert offers(wanted=[ARROW, COLUMNS]) == (["arrow", "columns"], ["zstd"])
    assert offers() == (["columns"], ["zstd"])
