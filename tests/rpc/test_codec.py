from __future__ import annotations

import pytest

from rpc import arrow_payload, batch
from rpc.batch import BatchFrame, Encoding
from rpc.codec import ProtocolCodec, get_codec
from rpc.errors import ProtocolError
from rpc.messages import AckMessage, AckStatus, HeartbeatMessage, WalEntry, WalOperation

ACK = AckMessage(timestamp=1, sequence_number=2, status=AckStatus.OK)


def test_the_shared_codec_speaks_binary_where_there_is_a_layout() -> None:
    codec = get_codec()
    assert codec is get_codec()
    assert codec.decode(codec.encode(ACK)) == ACK
    assert isinstance(codec.encode(ACK), bytes)
    assert isinstance(codec.encode(HeartbeatMessage(timestamp=1, source_do_id="s")), str)


def test_a_codec_may_speak_json_only() -> None:
    codec = ProtocolCodec(binary=False)
    assert isinstance(codec.encode(ACK), str)
    assert codec.decode(codec.encode(ACK)) == ACK


def test_a_codec_says_whether_bytes_are_a_message() -> None:
    assert get_codec().is_valid(get_codec().encode(ACK))
    assert not get_codec().is_valid(b"\xc2\xcd")
    with pytest.raises(ProtocolError):
        get_codec().decode(b"\xc2\xcd")


def test_arrow_documents_are_read_only_by_a_codec_that_agreed_on_them() -> None:
    row = WalEntry(sequence=1, timestamp=2, operation=WalOperation.INSERT, table="t", row_id="r", after={"a": 1})
    data = batch.encode(
        arrow_payload.encode([row]), encoding=Encoding.COLUMNS, entry_count=1, source="s", sequence=1, timestamp_ms=1
    )
    assert isinstance(ProtocolCodec(documents=True).read(data), BatchFrame)
    with pytest.raises(ProtocolError, match="did not agree"):
        get_codec().read(data)
